"""The command `wutong`, whose submitted runs have the light engine; the cluster must know the folder of the tests."""

from cli.main import main
from cluster import jobs

LIGHT_PROGRAM = ("python", "-P", "-m", "tests.cluster.light_wutong")

if __name__ == "__main__":
    jobs.PROGRAM = LIGHT_PROGRAM
    main()
