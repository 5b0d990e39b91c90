"""`python -m tcpcore` is `tcpcore`."""

from tcpcore.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
