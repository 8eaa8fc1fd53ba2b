#!/bin/sh
# test_analysis.sh
# Machines that read the code: warnings, clang-tidy, cppcheck, gcc's analyser, Frama-C's value analysis, stack frames,
# and the sanitizers for integers and threads. The longer ones: tests/analysis/run.sh all.
exec tests/analysis/run.sh quick
