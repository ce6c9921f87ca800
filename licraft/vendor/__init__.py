"""Vendor keys, license codes and the text of the redundant license file.

May import `core`, `errors`, `wire` and `yaml_text`. Nothing here knows a server, the
network or the clock, and importing it loads nothing of them. License servers run
`codes` and `license_file` to read what vendors made.

This is also the interface for vendors who issue codes from their own systems, which
is what `licraft vendor` does on the command line. A key pair is made once:

>>> from pathlib import Path
>>> from licraft.vendor import write_keys
>>> key = write_keys(Path("keys"), passphrase="correct horse battery staple")

`keys/vendor.key` stays with the vendor; `keys/vendor.pub` goes to every license
server. Then, for each sale:

>>> from datetime import date
>>> from licraft.vendor import load_private_key, make_code, read_code, write_license_file
>>> key = load_private_key(Path("keys/vendor.key"), "correct horse battery staple")
>>> cad = make_code(key, feature="cad", count=100, expires=date(2027, 12, 31), pool="acme")
>>> sim = make_code(key, feature="sim", count=5, id="order-4711-2", options={"module": "flow"})

A code is one line of text to mail; a license file is several of them with a sequence
number, which is greater in each new file for a pool:

>>> text = write_license_file("acme", 1, [read_code(code, [key.public]) for code in (cad, sim)])

What came back from a customer is read, and judged, like this; everything that is
wrong with it is a LicenseError, whose text is one line for people:

>>> from licraft.vendor import LicenseError, load_public_key, read_license_file
>>> public = load_public_key(Path("keys/vendor.pub"))
>>> code = read_code(f"> {cad[:70]}\\n> {cad[70:]}", [public])
>>> code.trusted, code.feature, code.count, str(code.expires)
(True, 'cad', 100, '2027-12-31')
>>> try:
...     read_license_file(text.replace("sequence: 1", "sequence: one"), [public], pool="acme")
... except LicenseError as fault:
...     print(str(fault).partition(";")[0])
line 2: `sequence` is 'one'

A system that has payloads already, as JSON, signs them with `sign_payload`.
"""

from licraft.core.license import LicenseCode, LicenseFile
from licraft.errors import LicenseError
from licraft.vendor.codes import make_code, read_code, sign_payload
from licraft.vendor.keys import (
    VendorPrivateKey,
    VendorPublicKey,
    load_private_key,
    load_public_key,
    write_keys,
)
from licraft.vendor.license_file import (
    parse_license_file,
    read_license_file,
    write_license_file,
)

__all__ = [
    "LicenseCode",
    "LicenseError",
    "LicenseFile",
    "VendorPrivateKey",
    "VendorPublicKey",
    "load_private_key",
    "load_public_key",
    "make_code",
    "parse_license_file",
    "read_code",
    "read_license_file",
    "sign_payload",
    "write_keys",
    "write_license_file",
]
