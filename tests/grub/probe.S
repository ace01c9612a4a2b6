# A kernel that tells what it was booted with, and ends the machine.
#
# It has the header of Linux's boot protocol 2.10 (Documentation/arch/x86/boot.rst)
# and one screen of 32-bit code, which prints on the first serial port
#
#   PROBE kernel=<name> initrd=<first line of the initrd> cmdline=<command line>
#
# and leaves through QEMU's isa-debug-exit. GRUB enters it like any bzImage.

	.code16
	.section .text, "ax"
	.globl _start
_start:
	.org 0x1f1
	.byte 1				# setup_sects
	.word 1				# root_flags: read-only
	.long (end - body) / 16		# syssize
	.word 0, 0, 0			# ram_size, vid_mode, root_dev
	.word 0xaa55			# boot_flag
	.byte 0xeb, header_end - magic	# jump
magic:	.ascii "HdrS"
	.word 0x020a			# version
	.long 0				# realmode_swtch
	.word 0, 0			# start_sys_seg, kernel_version
	.byte 0				# type_of_loader
	.byte 1				# loadflags: loaded high
	.word 0				# setup_move_size
	.long 0x100000			# code32_start
	.long 0, 0			# ramdisk_image, ramdisk_size
	.long 0				# bootsect_kludge
	.word 0				# heap_end_ptr
	.byte 0, 0			# ext_loader_ver, ext_loader_type
	.long 0				# cmd_line_ptr
	.long 0x7fffffff		# initrd_addr_max
	.long 0x100000			# kernel_alignment
	.byte 1, 20			# relocatable_kernel, min_alignment
	.word 0				# xloadflags: no 64-bit entry
	.long 2047			# cmdline_size
	.long 0				# hardware_subarch
	.quad 0				# hardware_subarch_data
	.long 0, 0			# payload_offset, payload_length
	.quad 0				# setup_data
	.quad 0x1000000			# pref_address
	.long 0x10000			# init_size
header_end:

	.org 0x400
	.code32
body:					# esi: the boot parameters
	movl 0x214(%esi), %ebp		# code32_start: where this was loaded
	leal (text - body)(%ebp), %edi
	movl $return_kernel - body, %ebx
	jmp print
return_kernel:
	leal (name - body)(%ebp), %edi
	movl $return_name - body, %ebx
	jmp print
return_name:
	leal (text_initrd - body)(%ebp), %edi
	movl $return_text_initrd - body, %ebx
	jmp print
return_text_initrd:
	movl 0x21c(%esi), %eax		# ramdisk_size
	testl %eax, %eax
	jz no_initrd
	movl 0x218(%esi), %edi		# ramdisk_image
	movl $no_initrd - body, %ebx
	jmp print
no_initrd:
	leal (text_cmdline - body)(%ebp), %edi
	movl $return_text_cmdline - body, %ebx
	jmp print
return_text_cmdline:
	movl 0x228(%esi), %edi		# cmd_line_ptr
	movl $return_cmdline - body, %ebx
	jmp print
return_cmdline:
	leal (line_end - body)(%ebp), %edi
	movl $leave - body, %ebx
	jmp print
leave:
	movw $0xf4, %dx
	movl $0x10, %eax
	outl %eax, %dx
	hlt

# Print from edi up to a zero byte or a newline, then go on at body + ebx.
print:
	movw $0x3fd, %dx
	inb %dx, %al
	testb $0x20, %al
	jz print
	movb (%edi), %al
	testb %al, %al
	jz printed
	cmpb $'\n', %al
	je printed
	movw $0x3f8, %dx
	outb %al, %dx
	incl %edi
	jmp print
printed:
	addl %ebp, %ebx
	jmp *%ebx

text:		.asciz "\r\r\rPROBE kernel="
text_initrd:	.asciz " initrd="
text_cmdline:	.asciz " cmdline="
line_end:	.asciz "\r\r"
name:		.ascii "@NAME@\0\0\0\0\0\0\0\0\0\0"	# filled in by the harness
	.balign 512
end:
