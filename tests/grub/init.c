/*
 * The first program after a real kernel: it tells what was booted, as probe.S
 * does, and restarts the machine. Before that come the kernel's own words on
 * Secure Boot:
 *
 *   KERNEL [    0.000000] secureboot: Secure boot enabled
 *   PROBE kernel=<uname -r> initrd=<first line of /name> cmdline=<command line>
 *
 * Freestanding, x86-64: cc -static -nostdlib -O1 init.c. /proc and /dev/console
 * are in the initrd.
 */

#include <asm/unistd.h>
#include <linux/reboot.h>
#include <linux/utsname.h>

enum { READ_ALL = 3, TCSBRK = 0x5409 };

static char log[1 << 20], text[8192];

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static long length(const char *string)
{
	long count = 0;

	while (string[count])
		count++;
	return count;
}

static void print(const char *string)
{
	call(__NR_write, 1, (long)string, length(string), 0, 0);
}

/* The first line of a file. */
static void print_file(const char *path)
{
	long file = call(__NR_open, (long)path, 0, 0, 0, 0);
	long count = call(__NR_read, file, (long)text, sizeof text - 1, 0, 0);

	text[count > 0 ? count : 0] = 0;
	for (char *at = text; *at; at++)
		if (*at == '\n')
			*at = 0;
	print(text);
}

static int has(const char *line, const char *word)
{
	for (; *line; line++) {
		long i = 0;

		while (word[i] && line[i] == word[i])
			i++;
		if (!word[i])
			return 1;
	}
	return 0;
}

static void print_log(void)
{
	long count = call(__NR_syslog, READ_ALL, (long)log, sizeof log - 1, 0, 0);
	char *line = log;

	for (long i = 0; i < count; i++) {
		if (log[i] != '\n')
			continue;
		log[i] = 0;
		if (has(line, "ecure boot") || has(line, "locked down")) {
			print("KERNEL ");
			print(line);
			print("\n");
		}
		line = log + i + 1;
	}
}

void _start(void)
{
	struct new_utsname name;

	call(__NR_mount, (long)"proc", (long)"/proc", (long)"proc", 0, 0);
	print_log();
	call(__NR_uname, (long)&name, 0, 0, 0, 0);
	print("PROBE kernel=");
	print(name.release);
	print(" initrd=");
	print_file("/name");
	print(" cmdline=");
	print_file("/proc/cmdline");
	print("\n");
	/* All of it has to be out of the serial port. */
	call(__NR_ioctl, 1, TCSBRK, 1, 0, 0);
	call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0, 0);
	for (;;)
		;
}
