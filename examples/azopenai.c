/* azopenai.c - the library, compiled once for all files of a program that include azopenai.h.
 *
 *     cc -std=c99 -O2 -I. -c examples/azopenai.c -o azopenai.o
 */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
