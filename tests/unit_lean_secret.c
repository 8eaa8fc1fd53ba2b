/* unit_lean_secret.c - a build for client secrets alone, with raw calls and without idle connections. */
#define AZO_MAX_IDLE_CONNECTIONS 0
#define LEAN_RAW
#define AZO_NO_IMDS
#include "lean.h"
