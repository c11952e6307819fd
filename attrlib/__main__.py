from attrlib.cli import main

main()
