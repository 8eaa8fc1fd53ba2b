/* unit_lean_secret.c - a build for client secrets alone. */
#define AZO_NO_IMDS
#include "lean.h"
