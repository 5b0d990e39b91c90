"""The engine in pure Python: the files of pyx/, written to be read as the specification."""
