"""Pictures of Ray's dashboard, and of Prometheus, while a run is watched.

python -m tests.cluster.dashboard_pictures docs/images
"""

import os
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

from tests.chromium import Page, chromium
from tests.cluster.test_watched_run import TOKEN, Watched, watched_run

# Each view of Ray's dashboard, with a text that is there once it has loaded.
VIEWS = {"jobs": "RUNNING", "actors": "run/rollout-0"}
CHART = "sum by (run, worker) (rate(ray_wutong_engine_tokens_total[10s]))"


def take(page: Page, run: Watched, target: Path) -> None:
    """A picture of each."""
    page.call("Emulation.setDeviceMetricsOverride", width=1700, height=640, deviceScaleFactor=1, mobile=False)
    # Ray's dashboard keeps its token in a cookie.
    page.call("Network.setCookie", name="ray-authentication-token", value=TOKEN, url=run.dashboard)
    for view, text in VIEWS.items():
        page.open(f"{run.dashboard}/#/{view}")
        page.wait(f"document.body.innerText.includes({text!r})")
        time.sleep(2)  # tables fade in
        page.screenshot(target / f"ray_{view}.png")
    shown = {"g0.expr": CHART, "g0.tab": "0", "g0.range_input": "1m"}
    page.call("Emulation.setDeviceMetricsOverride", width=1100, height=840, deviceScaleFactor=1, mobile=False)
    page.open(f"{run.server.address}/graph?{urllib.parse.urlencode(shown)}")
    page.wait("document.querySelectorAll('svg path').length > 0")
    time.sleep(2)
    page.screenshot(target / "prometheus.png")


def main() -> None:
    target = Path(sys.argv[1])
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ("python", "-m", "tests.cluster.light_wutong")  # as it is shown: no path of this machine
    with tempfile.TemporaryDirectory() as folder, watched_run(Path(folder), command) as run, chromium() as browser:
        time.sleep(45)  # so that charts have something to show
        with browser.page() as page:
            take(page, run, target)


if __name__ == "__main__":
    main()
