"""extract.py ARCHIVE PATH TO [INNER]: one file of a wheel, source archive or npm tarball."""
import io
import sys
import tarfile
import zipfile


def read(archive, path):
    """The file whose name is `path`, below a source archive's own top folder too."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as files:
            return files.read(path)
    with tarfile.open(archive) as files:
        for member in files:
            if member.name == path or member.name.endswith("/" + path):
                return files.extractfile(member).read()
    sys.exit(f"{archive}: no {path}")


archive, path, to, *inner = sys.argv[1:]
data = read(archive, path)
if inner:
    data = zipfile.ZipFile(io.BytesIO(data)).read(inner[0])
with open(to, "wb") as file:
    file.write(data)
