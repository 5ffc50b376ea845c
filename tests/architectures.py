"""The architectures that the tests build small, from their configs."""

KINDS = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "deberta-v2",
    "albert",
    "mpnet",
    "modernbert",
    "xlm-roberta",
)
