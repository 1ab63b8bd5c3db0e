"""`python -m tokenreel`, which `accelerate launch -m tokenreel` starts as well."""

from tokenreel.pipelines.cli.program import main

if __name__ == "__main__":
    main()
