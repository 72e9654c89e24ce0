"""Files and folders that are whole or not there, have one owner, and are read with care."""
