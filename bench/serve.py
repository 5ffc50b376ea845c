"""Requests per second of `serve`, next to a bare loop over `predict`.

    python bench/serve.py [CKPT] [REQUESTS]

8 clients send one text per request, each with its own connection, as fast as they get answers. The
loop calls `model.predict([text])` for the same texts in one process. Without CKPT: a network of the
size of all-MiniLM-L6-v2 with random weights.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from encode import save

import litpool
from litpool.tasks.classification import Classification

ROOT = Path(__file__).parents[1]
CLIENTS = 8
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


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    texts = [f"{' '.join(WORDS[n % 5 :] * (1 + n % 3))} {n}" for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "model.ckpt")
        if not path.exists():
            task = Classification()
            task.labels = ["bad", "good"]
            torch.manual_seed(0)
            save(path, task, "Classification", SHAPE, pretrained=False, batch_size=32)
        model = litpool.load(path, device="cpu")
        model.predict(texts[:8])
        began = time.perf_counter()
        expected = [model.predict([text])[0]["label"] for text in texts]
        alone = count / (time.perf_counter() - began)
        del model
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
            client(port, texts[:8])
            for clients in (1, CLIENTS):
                shares = [texts[n::clients] for n in range(clients)]
                began = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    found = list(pool.map(lambda share: client(port, share), shares))
                seconds = time.perf_counter() - began
                same = sum(
                    label == other
                    for n, labels in enumerate(found)
                    for label, other in zip(labels, expected[n::clients], strict=True)
                )
                print(
                    f"{clients} clients: {count / seconds:,.0f} requests per second, "
                    f"{same} of {count} labels equal"
                )
        finally:
            server.terminate()
            server.wait()
    print(f"a loop over predict: {alone:,.0f} texts per second")


if __name__ == "__main__":
    main()
