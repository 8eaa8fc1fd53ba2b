/* unit_lean_imds.c - a build for managed identity alone. */
#define AZO_NO_SECRET
#include "lean.h"
