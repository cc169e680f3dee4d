"""Reading and writing small text files."""


def write_files(directory, **texts):
    """Write files of text or bytes, by name. Returns their paths as strings."""
    for name, text in texts.items():
        (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(directory / name) for name in texts]


def write_lines(path, lines):
    """Write lines in UTF-8, each ended by a line feed. Returns the path."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def read_lines(path):
    """Return the lines of a UTF-8 file in which only a line feed ends a line."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return file.read().split("\n")[:-1]
