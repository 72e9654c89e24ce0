"""What reading a file of somebody else's may raise when the file is damaged or hostile."""

from __future__ import annotations

import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib

# One list for all readers: Pillow's, NumPy's, torch's and those of archives raise whatever their
# parsers trip over. Around calls into them only, or it would hide mistakes of our own. Running out
# of memory is none of them: a reader compares a header's claims with the file before it allocates.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    pickle.UnpicklingError,
    tokenize.TokenError,
)


def reason(error: BaseException) -> str:
    """What a reader said, in a line: the system's words, its first line, or the error's name."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    return (said.strip().splitlines() or [type(error).__name__])[0].strip()
