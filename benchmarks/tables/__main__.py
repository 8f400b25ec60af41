"""Command `python -m benchmarks.tables`: writes the tables of all READMEs."""

from benchmarks.tables import READMES, ROOT, with_tables

if __name__ == "__main__":
    for path in READMES:
        path.write_text(with_tables(path.read_text()))
        print(path.relative_to(ROOT))
