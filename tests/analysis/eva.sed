# Makes of azopenai.h what Frama-C reads: the part that is computed with bytes alone, which needs neither mbedTLS nor
# sockets. No statement changes but where it says so; lines that are added say which states are to be told apart.
/^\/\* >>pump/,$d
/^#include <mbedtls\//d
/^#include <psa\//d
/^\/\* ---- transport ---- \*\/$/,/^\/\* >>memory \*\/$/{
/^\/\* >>memory \*\/$/!d
}

# Changed: Frama-C 25 runs out of stack over a sizeof inside an array's size; and what libc makes of a format is not
# asked here.
s/char text\[sizeof e->message + 4\]/char text[512 + 4]/
s/^    vsnprintf(text, sizeof text, format, args);$/    text[0] = '\\0';/

# A position that the scanner of JSON hands on, by what is left behind it.
/^static [a-z ]*\*\{0,1\}azoi_json_scan_[a-z]*(.*[( ]const char \*at\(,.*\)\{0,1\}) {$/a\
    //@ dynamic_split s->end - at;\
    ;
/^static char azoi_json_scan_ahead(/a\
    //@ dynamic_split s->end - *at;\
    ;
/^    azoi_json_open \*open = s->open;$/a\
    //@ dynamic_split open - s->open;\
    ;

# What is left of a view, and of the input of a parser that is fed in pieces.
/^static azo_str azoi_skip(/,/^}/s/^    count = count > s.len ? s.len : count;$/&\
    eva_left = s.len - count;/
s/^\( *\)\*in = azoi_skip(\*in, .*);$/&\
\1eva_in = in->len;/
/^    azo_str piece = azoi_view(in->ptr, b->left < in->len/a\
    //@ split piece.len;

# The length of a buffer that is emptied.
s/^    azoi_buf_drop(b, b->len);$/    \/\/@ split b->len;\
&/
