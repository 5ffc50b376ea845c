"""Pictures of what TensorBoard shows, to look at and for the docs.

    python bench/screenshots.py FOLDER           # into FOLDER; runs that are there are kept
    python bench/screenshots.py FOLDER --docs    # also copies those that the docs show

It trains on 2, 8 and 77 labels (docstrings of installed packages) and, if the environment variable
LITPOOL_TEST_DATA names a folder with the STS benchmark, on scores: as a regression and as
similarity. It saves each figure as PNG. If there is a Chromium, it also starts TensorBoard and
takes a picture of each page, 1440 and 390 pixels wide.
"""

import base64
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
EPOCH = ["--trainer.max_epochs", "1"]
FAST = ["--model.recipe.lr", "5e-4"]  # to be right now and then after one epoch
STSB = Path(os.environ.get("LITPOOL_TEST_DATA", "")) / "stsb"
ROWS = ["--data.max_rows", "1200", *EPOCH]
PAIRS = [*ROWS, "--data.splits", "null", "--data.columns", "[sentence1, sentence2, score]"]
PAIRS += ["--data.source", str(STSB), "--data.max_length", "32"]
JOBS = {
    "labels_2": [*["--config", "configs/csv.yaml", "--data.source", "labels_2"], *ROWS],
    "labels_8": ["--config", "configs/quickstart.yaml", *ROWS],
    "labels_77": ["--config", "configs/csv.yaml", "--data.source", "labels_77", *EPOCH, *FAST],
    "regression": ["--config", "configs/stsb_regression.yaml", *PAIRS],
    "similarity": ["--config", "configs/stsb.yaml", *PAIRS],
}
OPTIONS = "--trainer.val_check_interval 0.25 --trainer.log_every_n_steps 2"
# The height at which each page shows all that matters, in pixels.
PAGES = {"timeseries": 2600, "custom_scalars": 600, "images": 1150, "text": 2000, "hparams": 1100}
WIDTHS = (1440, 390)
SECONDS = 12  # for TensorBoard to load a page
# On a narrow screen, TensorBoard's settings leave little room for the charts.
CLOSE_SETTINGS = """
(function search(root) {
    for (const element of root.querySelectorAll("*")) {
        if (element.ariaLabel === "Close side pane") element.click();
        if (element.shadowRoot) search(element.shadowRoot);
    }
})(document)
"""
DOCS = {
    "pages/labels_8-images-1440.png": "tensorboard.png",
    "figures/labels_8-train-losses.png": "losses.png",
    "figures/labels_8-test-confusion_matrix.png": "confusion_matrix.png",
    "figures/labels_8-test-reliability.png": "reliability.png",
    "figures/labels_77-test-confusion_matrix.png": "confusions.png",
    "figures/similarity-test-scores.png": "scores.png",
    "figures/labels_8-train-text_lengths.png": "text_lengths.png",
}


def write_data() -> None:
    """Write docstrings labeled with one of 2 packages, or with one of 77 folders."""
    from litpool.demo.docstrings import docstring_splits

    splits = docstring_splits()
    names = splits["train"].features["label"].names
    labels_2 = {
        split: [
            (row["text"], names[row["label"]])
            for row in rows
            if names[row["label"]] in ("numpy", "pandas")
        ]
        for split, rows in splits.items()
    }
    labels_77 = {
        split: [(row["text"], ".".join(Path(row["file"]).parts[:-1][:3])) for row in rows]
        for split, rows in splits.items()
    }
    common = Counter(label for _, label in labels_77["train"] if label).most_common(77)
    frequent = {label for label, _ in common}
    for name, data in {"labels_2": labels_2, "labels_77": labels_77}.items():
        Path(name).mkdir(exist_ok=True)
        for split, pairs in data.items():
            kept = [pair for pair in pairs if name == "labels_2" or pair[1] in frequent]
            with open(f"{name}/{split}.csv", "w", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *kept])


def train(name: str) -> None:
    """Train a job, unless it is trained already."""
    run = Path("logs", name, "version_0")
    if run.exists():
        return
    command = [sys.executable, str(ROOT / "cli.py"), "fit", *JOBS[name], *OPTIONS.split()]
    print(" ".join(command), flush=True)
    before = set(Path("logs").glob("*/version_*"))
    subprocess.run(command, check=True)
    (folder,) = set(Path("logs").glob("*/version_*")) - before
    run.parent.mkdir(exist_ok=True)
    folder.rename(run)


def save_figures(name: str) -> None:
    """Save the last state of each figure of a run."""
    Path("figures").mkdir(exist_ok=True)
    for file in sorted(Path("logs", name, "version_0").glob("events*")):
        events = EventAccumulator(str(file), {"images": 0}).Reload()
        for tag in events.Tags()["images"]:
            image = events.Images(tag)[-1].encoded_image_string
            Path(f"figures/{name}-{tag.replace('/', '-')}.png").write_bytes(image)


def photograph(name: str, program: str) -> None:
    """Take a picture of each page of TensorBoard with one run."""
    Path("pages").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", f"logs/{name}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    browser = Browser(program)
    try:
        wait_for(f"{address}data/runs")
        for page, height in PAGES.items():
            for width in WIDTHS:
                picture = take(browser, f"{address}?darkMode=false#{page}", width, height)
                Path(f"pages/{name}-{page}-{width}.png").write_bytes(picture)
    finally:
        browser.close()
        server.terminate()
        server.wait()


def wait_for(address: str) -> None:
    """Wait until TensorBoard has read the run."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(address) as answer:
                if answer.read().strip() != b"[]":
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{address} does not answer")


class Browser:
    """A Chromium without a window, driven over a pipe with the DevTools protocol.

    Args:
        program: Chromium.
    """

    def __init__(self, program: str) -> None:
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        self.profile = tempfile.TemporaryDirectory()
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe"
        options += f" --user-data-dir={self.profile.name}"
        # Chromium reads commands from descriptor 3 and answers on 4.
        wiring = f"exec 3<&{read_commands} 4>&{write_answers}; exec {program} {options}"
        self.process = subprocess.Popen(
            ["bash", "-c", wiring],
            pass_fds=(read_commands, write_answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.sent = 0
        self.buffer = b""

    def send(self, method: str, session: str | None = None, **parameters: object) -> dict:
        """Send a command and return its result."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                part = os.read(self.answers, 1 << 20)
                if not part:
                    raise ConnectionError("Chromium has ended")
                self.buffer += part
            answer, _, self.buffer = self.buffer.partition(b"\0")
            content = json.loads(answer)
            if content.get("id") == self.sent:
                return content["result"]

    def close(self) -> None:
        """End Chromium."""
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)
        self.profile.cleanup()


def take(browser: Browser, address: str, width: int, height: int) -> bytes:
    """Return a picture of a page, of this size, once it has had time to load."""
    target = browser.send("Target.createTarget", url="about:blank")["targetId"]
    attached = browser.send("Target.attachToTarget", targetId=target, flatten=True)
    session = attached["sessionId"]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.send("Emulation.setDeviceMetricsOverride", session, **size)
    browser.send("Page.navigate", session, url=address)
    time.sleep(SECONDS)
    browser.send("Runtime.evaluate", session, expression=CLOSE_SETTINGS)
    time.sleep(1)
    picture = browser.send("Page.captureScreenshot", session, format="png")
    browser.send("Target.closeTarget", targetId=target)
    return base64.b64decode(picture["data"])


def main(folder: str, docs: bool) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("configs").exists():
        Path("configs").symlink_to(ROOT / "configs")
    write_data()
    names = [name for name in JOBS if STSB.is_dir() or name.startswith("labels")]
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    for name in names:
        train(name)
        save_figures(name)
        if browser:
            photograph(name, browser)
    if not browser:
        print("no chromium: figures only")
    for source, target in DOCS.items() if docs else ():
        if Path(source).exists():
            picture = Image.open(source).convert("RGB").quantize(256)  # a third of the size
            picture.save(ROOT / "docs" / target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], "--docs" in sys.argv)
