"""`python -m hf_tl` is the command `hf-tl`."""

from hf_tl.cli import main

if __name__ == "__main__":
    main()
