"""The commands of `ratchet`, which `cli.COMMANDS` lists; a module is imported when one of its commands is asked for."""
