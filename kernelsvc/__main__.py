"""`python -m kernelsvc`."""

from kernelsvc.cli.main import main

main()
