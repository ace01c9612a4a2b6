"""Where slots live: the layout, finding them, partition tables, filesystems."""
