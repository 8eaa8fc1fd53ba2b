# servers.sh - sourced by bench.sh and smoke.sh: the real servers that the benchmark talks to, on loopback.
#
#     start_servers   nginx for what does not change, bench_peer for streams; leaves $nginx and $peer (HOST:PORT of
#                     each) and exports BENCH_CA, BENCH_ENTRA
#     together, apart
#     stop_servers
#
# $build is where the programs are; everything is made under $build/servers.

servers=$build/servers
nginx_pid=
peer_pid=
tenant=11111111-2222-3333-4444-555555555555

# The chain of the public service in its sizes: RSA 2048 under RSA 4096 under RSA 2048, and a leaf of many names. The
# root is the last of a bundle as large as a real one.
make_chain() {
    [ -e "$servers/bundle.pem" ] && openssl x509 -in "$servers/chain.pem" -noout -checkend 86400 >/dev/null && return
    names=DNS:localhost
    index=1
    while [ "$index" -le 22 ]; do
        names=$names,DNS:region$index.openai.azure.test
        index=$((index + 1))
    done
    (
        cd "$servers" || exit 1
        printf '%s\n' '[req]' 'distinguished_name=n' 'prompt=no' '[n]' '[ca]' 'basicConstraints=critical,CA:TRUE' \
            'keyUsage=critical,keyCertSign,cRLSign' 'subjectKeyIdentifier=hash' '[leaf]' \
            'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature,keyEncipherment' \
            'extendedKeyUsage=serverAuth,clientAuth' 'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' \
            "subjectAltName=$names" >req.conf
        openssl genrsa -out root.key 2048
        openssl genrsa -out middle.key 4096
        openssl genrsa -out server.key 2048
        openssl req -x509 -new -config req.conf -extensions ca -key root.key -sha256 -days 3650 \
            -subj '/C=US/O=Bench/CN=Bench root' -out root.pem
        openssl req -new -config req.conf -key middle.key -subj '/C=US/O=Bench/CN=Bench intermediate' -out middle.csr
        openssl x509 -req -in middle.csr -CA root.pem -CAkey root.key -set_serial 2 -sha384 -days 3000 \
            -extfile req.conf -extensions ca -out middle.pem
        openssl req -new -config req.conf -key server.key -subj '/C=US/O=Bench/CN=localhost' -out server.csr
        openssl x509 -req -in server.csr -CA middle.pem -CAkey middle.key -set_serial 3 -sha384 -days 800 \
            -extfile req.conf -extensions leaf -out server.pem
        cat server.pem middle.pem >chain.pem
        cat /etc/ssl/certs/ca-certificates.crt root.pem >bundle.pem
    ) >"$servers/openssl.log" 2>&1
}

make_bodies() {
    for body in text base64; do
        [ -e "$servers/$body" ] || "$build/bench_data" $body >"$servers/$body"
    done
    for size in 1 6 50; do
        [ -e "$servers/bulk-$size" ] || "$build/bench_data" bulk $size >"$servers/bulk-$size"
    done
}

# nginx_conf PORT TOKEN_PORT
nginx_conf() {
    token=$(awk 'BEGIN { for (i = 0; i < 1500; i++) printf "%c", 97 + i % 26 }')
    answer=$("$build/bench_data" chat)
    cat <<CONF
daemon off;
master_process off;
pid nginx.pid;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path temp;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    sendfile off;
    ssl_certificate chain.pem;
    ssl_certificate_key server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    types { }
    server {
        listen 127.0.0.1:$1 ssl backlog=4096;
        default_type application/json;
        add_header apim-request-id 6a1d0c1e-93b7-4e52-8f6a-2d7c41e9b3f5;
        add_header x-ratelimit-remaining-requests 79;
        add_header x-ratelimit-remaining-tokens 61353;
        add_header x-ms-region 'East US';
        add_header x-ms-deployment-name gpt-4o;
        add_header strict-transport-security 'max-age=31536000; includeSubDomains; preload';
        add_header x-content-type-options nosniff;
        location = /openai/v1/chat/completions {
            return 200 '$answer';
        }
        # A file is served to GET alone: an error page is how a POST gets one.
        location /text/ { error_page 405 =200 /files/text; return 405; }
        location /base64/ { error_page 405 =200 /files/base64; return 405; }
        location ~ ^/bulk/([0-9]+)/ { error_page 405 =200 /files/bulk-\$1; return 405; }
        location /files/bulk- { alias ./bulk-; default_type text/event-stream; internal; }
        location /files/ { alias ./; internal; }
    }
    server {
        listen 127.0.0.1:$2 ssl;
        default_type 'application/json; charset=utf-8';
        location = /$tenant/oauth2/v2.0/token {
            return 200 '{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"$token"}';
        }
    }
}
CONF
}

start_nginx() {
    PATH=$PATH:/usr/sbin:/sbin
    command -v nginx >/dev/null 2>&1 || { echo 'bench: nginx is not installed' >&2; return 1; }
    mkdir -p "$servers/temp"
    for try in 1 2 3 4 5; do
        port=$((20000 + ($$ + try * 977) % 5000 * 2))
        nginx_conf "$port" $((port + 1)) >"$servers/nginx.conf"
        rm -f "$servers/nginx.pid"
        nginx -p "$servers/" -c nginx.conf -e error.log 2>"$servers/nginx.log" &
        nginx_pid=$!
        waits=0
        while kill -0 $nginx_pid 2>/dev/null && [ $waits -lt 50 ]; do
            if [ -s "$servers/nginx.pid" ]; then
                nginx=localhost:$port
                BENCH_ENTRA=localhost:$((port + 1))
                export BENCH_ENTRA
                return 0
            fi
            waits=$((waits + 1))
            sleep 0.1
        done
        kill $nginx_pid 2>/dev/null
    done
    cat "$servers/nginx.log" >&2
    return 1
}

# start_program NAME ARGUMENT...: one that prints its port; it is left in $port, the process in $program_pid.
start_program() {
    rm -f "$servers/port"
    "$build/$1" "$2" "$3" >"$servers/port" </dev/null &
    program_pid=$!
    until [ -s "$servers/port" ]; do
        kill -0 $program_pid 2>/dev/null || return 1
        sleep 0.05
    done
    port=$(cat "$servers/port")
}

# together, apart: the servers, and what is run by way of $by, share one processor. To wake another one, which a virtual
# machine may have to be asked for, can cost as much as a call.
together() {
    processors=$(taskset -cp $$ 2>/dev/null | sed 's/.*: *//')
    by=${processors:+taskset -c ${processors%%[,-]*}}
    bind_servers "${processors%%[,-]*}"
}
apart() {
    bind_servers "$processors"
    by=
}
bind_servers() {
    for one in ${1:+$nginx_pid $peer_pid}; do taskset -cp "$1" $one >/dev/null; done
}

start_servers() {
    mkdir -p "$servers" && servers=$(cd "$servers" && pwd) # nginx wants it whole
    make_chain || { cat "$servers/openssl.log" >&2; return 1; }
    make_bodies
    start_nginx || return 1
    start_program bench_peer "$servers/chain.pem" "$servers/server.key" || return 1
    peer_pid=$program_pid
    peer=localhost:$port
    BENCH_CA=$servers/bundle.pem
    export BENCH_CA
}

stop_servers() {
    for one in $nginx_pid $peer_pid; do
        kill "$one" 2>/dev/null
        wait "$one" 2>/dev/null
    done
    nginx_pid=
    peer_pid=
}
