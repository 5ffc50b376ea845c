"""Requests per second of `serve`, next to a bare loop over `predict`.

    python bench/serve.py [CKPT] [REQUESTS]

1 client or 8 send one text per request, each with its own connection, as fast as they get answers.
The loop calls `model.predict([text])` for the same texts in one process. All three take turns.
Without CKPT: a network of the size of all-MiniLM-L6-v2 with random weights.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch
from encode import save

import litpool
from litpool.tasks.classification import Classification

ROOT = Path(__file__).parents[1]
CLIENTS = 8
TURNS = 3
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
WORDS = ("the", "film", "was", "not", "so", "bad", "that", "nobody", "would", "play", "it", "again")


def client(port: int, texts: list[str]) -> list[str]:
    """Send texts one by one; return the labels."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    labels = []
    for text in texts:
        connection.request("POST", "/predict", json.dumps({"texts": [text]}))
        response = connection.getresponse()
        content = json.load(response)
        assert response.status == 200, content
        labels.append(content["answers"][0]["label"])
    return labels


def ask(port: int, clients: int, texts: list[str]) -> list[str]:
    """Share texts among clients; return the labels in order."""
    shares = [texts[n::clients] for n in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda share: client(port, share), shares))
    return [found[n % clients][n // clients] for n in range(len(texts))]


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    texts = [f"{' '.join(WORDS[n % 5 :] * (1 + n % 3))} {n}" for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "model.ckpt")
        if len(sys.argv) < 2:
            task = Classification()
            task.labels = ["bad", "good"]
            torch.manual_seed(0)
            save(path, task, "Classification", SHAPE, pretrained=False, batch_size=32)
        model = litpool.load(path, device="cpu")
        command = [sys.executable, ROOT / "cli.py", "serve", "--ckpt_path", path]
        server = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split()[1].rpartition(":")[2])
            ways = {
                "loop over predict": lambda t: [model.predict([text])[0]["label"] for text in t],
                "1 client": lambda t: ask(port, 1, t),
                f"{CLIENTS} clients": lambda t: ask(port, CLIENTS, t),
            }
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(TURNS + 1):  # the first warms up
                labels = {}
                for name, way in ways.items():
                    began = time.perf_counter()
                    labels[name] = way(texts)
                    if turn:
                        rates[name].append(count / (time.perf_counter() - began))
                assert len({tuple(found) for found in labels.values()}) == 1, "other answers"
        finally:
            server.terminate()
            server.wait()
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates["loop over predict"], strict=True)]
        print(
            f"{name:<20}{median(values):6.1f} per second ({min(values):.1f} to {max(values):.1f}), "
            f"{median(ratios):.2f} of the loop ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
