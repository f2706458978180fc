"""`python -m producer` is the command `producer`."""

from producer.cli import main

main()
