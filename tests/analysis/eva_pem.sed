# The two functions of azopenai.h that eva_pem.c looks at; see eva.sed.
/^static size_t azoi_scan_text(/,/^}/b keep
/^static void azoi_scan_added(/,/^}/b keep
d
: keep
s/^    size_t at = 0;$/&\
    \/\/@ dynamic_split at;/
s/^    z->len += added;$/&\
    \/\/@ split z->len;\
    ;/
s/^    size_t left = .*/&\
    \/\/@ split left;\
    ;/
