#!/bin/sh
# compile_check.sh - the header under the compilers that are here, in a minute: the short form of tests/ports/matrix.sh.
exec tests/ports/matrix.sh short
