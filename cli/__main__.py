"""`python -m cli`: the command `wutong` where it is not installed, as in a submitted job."""

from cli.main import main

main()
