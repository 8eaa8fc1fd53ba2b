# What clang's analyser cannot find out for itself, told to its copy of azopenai.h (one line is added).
# It does not look into variadic functions: azoi_fail answers the code that it was given.
/^static azo_result azoi_memory(azo_error \*e) {$/i\
#define azoi_fail(e, code, ...) ((void)azoi_fail(e, code, __VA_ARGS__), (code))
