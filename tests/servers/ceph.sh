#!/bin/bash
# A real S3 server on loopback: Ceph's RADOS Gateway over one in-memory OSD (Debian packages ceph-mon,
# ceph-osd, ceph-mgr, radosgw, ceph-common). Ready in about 15 s.
#   ceph.sh start DIR   start the daemons, print one line of environment settings, return
#   ceph.sh stop DIR    stop them
#   ceph.sh run DIR     start, print that line, and stop as soon as stdin closes
# Everything lives under DIR. Ports are picked at random; no daemon listens outside 127.0.0.1.
set -euo pipefail
usage="usage: ceph.sh start|stop|run DIR"
verb=${1:?$usage}
mkdir -p "${2:?$usage}"
dir=$(cd "$2" && pwd)
conf=$dir/ceph.conf
key=testkey secret=testsecret region=us-east-1

die() { printf 'ceph.sh: %s\n' "$*" >&2; exit 1; }

stop_daemons() {
    local file pids=()
    for file in "$dir"/pid.*; do
        [ -e "$file" ] || continue
        pids+=("$(cat "$file")")
        rm -f "$file"
    done
    [ ${#pids[@]} -gt 0 ] || return 0
    kill "${pids[@]}" 2> /dev/null || true
    for _ in $(seq 100); do
        any_alive "${pids[@]}" || return 0
        sleep 0.1
    done
    kill -9 "${pids[@]}" 2> /dev/null || true
}

any_alive() {  # a zombie that nobody has reaped yet is not alive
    local pid
    for pid in "$@"; do
        grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" && return 0
    done
    return 1
}

listening() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

free_port() {  # below the ephemeral range, so that no outgoing connection takes it meanwhile
    local port
    for _ in $(seq 100); do
        port=$((12000 + (RANDOM * 32768 + RANDOM) % 20000))
        listening "$port" || { echo "$port"; return; }
    done
    die "no free port"
}

write_conf() {
    cat > "$conf" << EOF
[global]
fsid = $fsid
mon host = $mon_address
run dir = $dir/run
log file = $dir/log/\$name.log
admin socket = $dir/run/\$name.asok
pid file =
mon data = $dir/mon
osd data = $dir/osd
mgr data = $dir/mgr
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
# No keys at all; without "crc" for clients of the monitor the daemons would never get in.
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
# One OSD, one copy.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
osd objectstore = memstore
memstore device bytes = $((${S3D_CEPH_GIB:-8} << 30))
[client]
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$rgw_port
# Free the memory of deleted objects at once; a test run may write more than the store holds.
rgw gc obj min wait = 1
rgw gc processor period = 5
EOF
}

spawn() {  # NAME COMMAND...: a daemon detached from the terminal, its pid in DIR/pid.NAME
    local name=$1
    shift
    setsid "$@" > "$dir/log/$name.out" 2>&1 < /dev/null &
    echo $! > "$dir/pid.$name"
}

step() {  # NAME COMMAND...: must succeed within a minute, or its output is shown
    local name=$1
    shift
    timeout 60 "$@" > "$dir/log/$name.out" 2>&1 < /dev/null && return
    tail -n 20 "$dir/log/$name.out" >&2
    die "$name failed"
}

start_daemons() {
    local program
    for program in ceph-mon ceph-osd ceph-mgr radosgw radosgw-admin ceph monmaptool; do
        command -v $program > /dev/null || die "$program is not installed. Run: apt-get install -y" \
            "--no-install-recommends ceph-mon ceph-osd ceph-mgr radosgw ceph-common"
    done
    rm -rf "$dir"/{mon,osd,mgr,rgw,run,log}
    mkdir -p "$dir"/{mon,osd,mgr,rgw,run,log}
    fsid=$(cat /proc/sys/kernel/random/uuid)
    osd_id=$(cat /proc/sys/kernel/random/uuid)
    rgw_port=$(free_port)
    mon_address="[v2:127.0.0.1:$(free_port),v1:127.0.0.1:$(free_port)]"
    write_conf

    step monmap monmaptool --create --clobber --fsid "$fsid" --addv a "$mon_address" "$dir/monmap"
    step mkfs.mon ceph-mon -c "$conf" --mkfs -i a --monmap "$dir/monmap"
    spawn mon ceph-mon -c "$conf" -i a -f
    step osd.new ceph -c "$conf" osd new "$osd_id"
    spawn mgr ceph-mgr -c "$conf" -i x -f
    step mkfs.osd ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd_id"
    spawn osd ceph-osd -c "$conf" -i 0 -f
    spawn rgw radosgw -c "$conf" -n client.rgw -f
    step user radosgw-admin -c "$conf" -n client.rgw user create --uid=test --display-name=test \
        --access-key=$key --secret-key=$secret
    for _ in $(seq 120); do
        kill -0 "$(cat "$dir/pid.rgw")" 2> /dev/null || break
        if listening "$rgw_port"; then
            echo "AWS_ENDPOINT_URL=http://127.0.0.1:$rgw_port AWS_ACCESS_KEY_ID=$key" \
                "AWS_SECRET_ACCESS_KEY=$secret AWS_REGION=$region"
            return
        fi
        sleep 0.5
    done
    tail -n 20 "$dir/log/rgw.out" >&2
    die "radosgw does not answer on port $rgw_port; see $dir/log"
}

case $verb in
    start)
        trap '[ $? = 0 ] || stop_daemons' EXIT
        start_daemons
        ;;
    stop) stop_daemons ;;
    run)
        trap stop_daemons EXIT
        trap 'exit 143' TERM INT HUP
        start_daemons
        cat > /dev/null
        ;;
    *) die "$usage" ;;
esac
