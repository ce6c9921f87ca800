"""Vendor keys, license codes and the text of the redundant license file."""
