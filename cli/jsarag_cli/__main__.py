"""``python -m jsarag_cli``."""

from jsarag_cli.main import main

main()
