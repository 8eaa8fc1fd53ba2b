#!/bin/sh
# make_certs.sh DIR
# Makes the certificates of the TLS tests under DIR: a good chain, one bad chain per way of being bad, and a
# bundle to look roots up in. Does nothing when DIR is already complete and still valid. Needs openssl 1.1.1 or newer.
set -eu

dir=${1:?usage: make_certs.sh DIR}
stamp=$dir/.complete
if [ -e "$stamp" ] && [ -z "$(find "$0" -newer "$stamp")" ] &&
    openssl x509 -in "$dir/server.pem" -noout -checkend 86400 >/dev/null 2>&1; then
    exit 0
fi

mkdir -p "$dir"
rm -f "$stamp"
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

unrelated_roots=40
good_names='DNS:localhost,DNS:contoso.openai.azure.test,DNS:*.openai.azure.test'
good_names="$good_names,DNS:login.microsoftonline.test,IP:127.0.0.1,IP:::1"

quietly() {
    "$@" >"$work/output" 2>&1 || { cat "$work/output" >&2; exit 1; }
}

with_crlf() { awk '{ printf "%s\r\n", $0 }' "$1"; }
rsa_key() { quietly openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/$1.key"; }
ec_key() { quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key"; }

# make_root NAME KEY COMMON_NAME
make_root() {
    quietly openssl req -x509 -new -config "$work/req.conf" -extensions authority -key "$work/$2.key" -sha256 \
        -days 3650 -subj "/C=US/O=Test only/CN=$3" -out "$work/$1.pem"
}

# extensions_file NAME SUBJECT_ALT_NAMES EXTENDED_KEY_USAGE
extensions_file() {
    cat >"$work/$1.ext" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = $3
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $2
END
}

# sign NAME KEY SUBJECT_ALT_NAMES EXTENDED_KEY_USAGE FROM TO: one leaf under the intermediate
sign() {
    extensions_file "$1" "$3" "$4"
    quietly openssl req -new -config "$work/req.conf" -key "$work/$2.key" -subj "/O=Test only/CN=$1" \
        -out "$work/$1.csr"
    quietly openssl ca -batch -notext -config "$work/ca.conf" -in "$work/$1.csr" -extfile "$work/$1.ext" \
        -startdate "$5" -enddate "$6" -out "$work/$1.leaf"
}

# publish NAME KEY: the leaf with its intermediate, and its key
publish() {
    cat "$work/$1.leaf" "$work/intermediate.pem" >"$work/$1.pem"
    [ "$1" = "$2" ] || cp "$work/$2.key" "$work/$1.key"
}

cat >"$work/req.conf" <<'END'
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[authority_below]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[self_signed]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
END
cat >"$work/ca.conf" <<END
[ca]
default_ca = intermediate
[intermediate]
database = $work/index
new_certs_dir = $work
certificate = $work/intermediate.pem
private_key = $work/intermediate.key
rand_serial = yes
unique_subject = no
default_md = sha256
policy = anything
[anything]
organizationName = optional
commonName = supplied
END
: >"$work/index"

rsa_key ca
rsa_key intermediate
rsa_key server
ec_key other_ca
ec_key bad

make_root ca ca 'Fake root'
make_root other_ca other_ca 'Unrelated root'
quietly openssl req -new -config "$work/req.conf" -key "$work/intermediate.key" \
    -subj '/C=US/O=Test only/CN=Fake intermediate' -out "$work/intermediate.csr"
quietly openssl x509 -req -in "$work/intermediate.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -set_serial 2 \
    -sha256 -days 3650 -extfile "$work/req.conf" -extensions authority_below -out "$work/intermediate.pem"

year=$(date -u +%Y)
from=$((year - 1))0101000000Z
to=$((year + 2))0101000000Z
sign server server "$good_names" serverAuth "$from" "$to"
sign expired bad "$good_names" serverAuth 20200101000000Z 20210101000000Z
sign notyet bad "$good_names" serverAuth "$((year + 10))0101000000Z" "$((year + 12))0101000000Z"
sign wronghost bad DNS:other.test serverAuth "$from" "$to"
sign clientonly bad "$good_names" clientAuth "$from" "$to"
publish server server
for name in expired notyet wronghost clientonly; do publish "$name" bad; done

cp "$work/server.leaf" "$work/nochain.pem"
cp "$work/server.key" "$work/nochain.key"
cp "$work/bad.key" "$work/selfsigned.key"
quietly openssl req -x509 -new -config "$work/req.conf" -extensions self_signed -addext "subjectAltName=$good_names" \
    -key "$work/selfsigned.key" -sha256 -days 800 -subj '/O=Test only/CN=localhost' -out "$work/selfsigned.pem"

# ---- For the torture of TLS: chains under a root of their own, all with P-256 keys, so that a handshake costs little.

# issue NAME KEY ISSUER ISSUER_KEY SUBJECT FROM TO DIGEST: a certificate with the extensions on standard input
issue() {
    { printf '[extensions]\n'; cat; } >"$work/$1.ext"
    quietly openssl req -new -config "$work/req.conf" -key "$work/$2.key" -subj "$5" -out "$work/$1.csr"
    quietly openssl ca -batch -notext -preserveDN -config "$work/ca.conf" -in "$work/$1.csr" -cert "$work/$3.pem" \
        -keyfile "$work/$4.key" -md "$8" -extfile "$work/$1.ext" -extensions extensions -startdate "$6" -enddate "$7" \
        -out "$work/$1.pem"
}

# leaf NAME KEY SUBJECT_ALT_NAMES ISSUER ISSUER_KEY [DIGEST]
leaf() {
    issue "$1" "$2" "$4" "$5" "/O=Test only/CN=$1" "$from" "$to" "${6:-sha256}" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = $3
END
}

# authority NAME ISSUER ISSUER_KEY FROM TO CONSTRAINTS [MORE]: an intermediate one, with the key ec_bad
authority() {
    issue "$1" ec_bad "$2" "$3" "/O=Test only/CN=Intermediate $1" "$4" "$5" sha256 <<END
basicConstraints = critical, $6
keyUsage = critical, keyCertSign
${7:-}
END
}

# serve NAME KEY CERTIFICATE...: what a server shows, the leaf first; NAME.chain is that without the leaf
serve() {
    name=$1
    key=$2
    shift 2
    for certificate; do cat "$work/$certificate.pem"; done >"$work/$name.served"
    shift
    for certificate; do cat "$work/$certificate.pem"; done >"$work/$name.chain"
    [ "$#" -eq 0 ] || mv "$work/$name.chain" "$dir/"
    mv "$work/$name.served" "$dir/$name.pem"
    cp "$work/$key.key" "$dir/$name.key"
}

ec_key ec_ca
ec_key ec_server
ec_key ec_bad
quietly openssl genpkey -algorithm ED25519 -out "$work/ed25519.key"
make_root ec_root ec_ca 'Fake EC root'
make_root impostor_root ec_bad 'Fake EC root'
quietly openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out "$work/rsa1024.key"

leaf ec_server ec_server "$good_names" ec_root ec_ca
leaf weak_key rsa1024 "$good_names" ec_root ec_ca
leaf ed25519 ed25519 "$good_names" ec_root ec_ca
leaf sha1 ec_bad "$good_names" ec_root ec_ca sha1
leaf address ec_bad IP:127.0.0.1 ec_root ec_ca
leaf wildcard ec_bad 'DNS:*.openai.azure.test' ec_root ec_ca
leaf bare_wildcard ec_bad 'DNS:*' ec_root ec_ca
leaf nul_name ec_bad 'DER:30:16:82:14:6c:6f:63:61:6c:68:6f:73:74:00:2e:65:76:69:6c:2e:74:65:73:74' ec_root ec_ca
leaf impostor ec_bad "$good_names" impostor_root ec_bad
issue other_san ec_bad ec_root ec_ca /CN=localhost "$from" "$to" sha256 <<'END'
subjectAltName = DNS:other.test
END
issue cn_only ec_bad ec_root ec_ca /CN=localhost "$from" "$to" sha256 <<'END'
basicConstraints = critical, CA:FALSE
END
issue encrypt_only ec_bad ec_root ec_ca /CN=encrypt_only "$from" "$to" sha256 <<END
keyUsage = critical, keyAgreement
subjectAltName = $good_names
END
issue client_only ec_bad ec_root ec_ca /CN=client_only "$from" "$to" sha256 <<END
extendedKeyUsage = clientAuth
subjectAltName = $good_names
END
issue unknown_critical ec_bad ec_root ec_ca /CN=unknown_critical "$from" "$to" sha256 <<END
1.2.3.4 = critical, ASN1:NULL
subjectAltName = $good_names
END
leaf under_leaf ec_bad "$good_names" ec_server ec_server
authority expired_ca ec_root ec_ca 20200101000000Z 20210101000000Z CA:TRUE
quietly openssl req -new -config "$work/req.conf" -key "$work/ec_bad.key" -subj '/O=Test only/CN=Expired root' \
    -out "$work/expired_root.csr"
quietly openssl ca -batch -notext -preserveDN -selfsign -config "$work/ca.conf" -in "$work/expired_root.csr" \
    -keyfile "$work/ec_bad.key" -md sha256 -extfile "$work/req.conf" -extensions authority \
    -startdate 20200101000000Z -enddate 20210101000000Z -out "$work/expired_root.pem"
leaf under_expired_root ec_bad "$good_names" expired_root ec_bad
leaf under_expired ec_bad "$good_names" expired_ca ec_bad
authority short_ca ec_root ec_ca "$from" "$to" CA:TRUE,pathlen:0
authority below_short_ca short_ca ec_bad "$from" "$to" CA:TRUE
leaf under_short ec_bad "$good_names" below_short_ca ec_bad
authority narrow_ca ec_root ec_ca "$from" "$to" CA:TRUE 'nameConstraints = critical, permitted;DNS:other.test'
leaf under_narrow ec_bad "$good_names" narrow_ca ec_bad

# Ten authorities one below the other: two more than mbedTLS follows.
above=ec_root
above_key=ec_ca
long_chain=
for index in 1 2 3 4 5 6 7 8 9 10; do
    authority "chain$index" "$above" "$above_key" "$from" "$to" CA:TRUE
    above=chain$index
    above_key=ec_bad
    long_chain="$above $long_chain"
done
leaf chain_leaf ec_bad "$good_names" chain10 ec_bad
hundred=
index=1
while [ "$index" -lt 100 ]; do hundred="$hundred chain1" index=$((index + 1)); done

serve ec_server ec_server ec_server
serve weak_key rsa1024 weak_key
serve ed25519 ed25519 ed25519
for name in sha1 address wildcard bare_wildcard nul_name other_san cn_only encrypt_only client_only \
    unknown_critical; do
    serve "$name" ec_bad "$name"
done
serve impostor ec_bad impostor impostor_root
serve under_leaf ec_bad under_leaf ec_server
serve under_expired ec_bad under_expired expired_ca
serve under_expired_root ec_bad under_expired_root
serve under_short ec_bad under_short below_short_ca short_ca
serve under_narrow ec_bad under_narrow narrow_ca
# shellcheck disable=SC2086
serve long_chain ec_bad chain_leaf $long_chain
# shellcheck disable=SC2086
serve hundred_chain ec_server ec_server $hundred
mv "$work/ec_root.pem" "$work/expired_root.pem" "$dir/"

# The bundle is what real ones are at their worst: text between the blocks, CRLF lines, a block of another kind, and
# the one root that matters in the middle. The broken one starts with a certificate that is none, which mbedTLS skips
# and OpenSSL refuses.
index=1
while [ "$index" -le "$unrelated_roots" ]; do
    make_root "root$index" other_ca "Unrelated root $index"
    printf '# root %d: an unrelated authority\n' "$index"
    case $((index % 4)) in
    1) with_crlf "$work/root$index.pem" ;;
    2) openssl x509 -in "$work/root$index.pem" -noout -subject; cat "$work/root$index.pem" ;;
    *) cat "$work/root$index.pem" ;;
    esac
    if [ "$index" -eq $((unrelated_roots / 4)) ]; then
        printf -- '-----BEGIN NOTE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END NOTE-----\n'
    fi
    if [ "$index" -eq $((unrelated_roots / 2)) ]; then
        printf 'stray text ----- with dashes\r\n'
        with_crlf "$work/ca.pem"
    fi
    index=$((index + 1))
done >"$work/bundle.pem"
{
    printf -- '-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n'
    cat "$work/bundle.pem"
} >"$work/broken_bundle.pem"

for name in server expired notyet wronghost selfsigned clientonly nochain; do
    mv "$work/$name.pem" "$work/$name.key" "$dir/"
done
mv "$work/ca.pem" "$work/intermediate.pem" "$work/other_ca.pem" "$work/bundle.pem" \
    "$work/broken_bundle.pem" "$dir/"
: >"$stamp"
