/* unit_lean_key.c - a build for keys and token providers alone. */
#define AZO_NO_SECRET
#define AZO_NO_IMDS
#include "lean.h"
