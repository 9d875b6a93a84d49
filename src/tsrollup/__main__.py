from tsrollup.cli import main

main()
