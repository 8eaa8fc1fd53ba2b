/* unit_lean_secret.c - a build for client secrets alone, with raw calls. */
#define LEAN_RAW
#define AZO_NO_IMDS
#include "lean.h"
