"""`python -m tokenreel`, also what `accelerate launch -m tokenreel` starts."""

from tokenreel.pipelines.cli.program import main

if __name__ == "__main__":
    main()
