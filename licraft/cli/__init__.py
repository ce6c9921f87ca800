"""The `licraft` command: thin click commands over the client, vendor and server rooms."""
