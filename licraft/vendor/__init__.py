"""Vendor keys, license codes and the text of the redundant license file.

May import `core`, `errors`, `wire` and `yaml_text`. The software vendor runs
`keys` and `codes` to make codes; license servers run `codes` and `license_file`
to read them. Nothing here knows a server, the network or the clock.
"""
