#!/bin/sh
# First process of the guest. Its folder JOB holds: main (what to run), writable (folders, one a line), prewarm
# (only when wanted). It writes out (output of main), rc (exit status, at the very end) and up (seconds to boot).
#
# Stage 1 runs on the host's file system, mounted read-only, and builds the real root: an overlay whose upper layer
# is memory. Stage 2 runs in that root.
JOB=${0%/*}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

complain() { echo "guest: $*" >> "$JOB/out"; }
power_off() { sync; echo o > /proc/sysrq-trigger; sleep 30; }
give_up() { complain "$*"; echo 125 > "$JOB/rc"; power_off; }

stage_1() {
    mount -n -t proc proc /proc
    release=$(uname -r)
    modules=/usr/lib/uml/modules/$release
    mount -n -t tmpfs -o mode=755 layers /mnt || give_up "no tmpfs"
    mkdir -p /mnt/upper /mnt/work /mnt/root /mnt/fake/lib
    # The overlay module itself is found through a folder that looks like a root with /lib/modules.
    ln -s /usr/lib/uml/modules /mnt/fake/lib/modules
    grep -qw overlay /proc/filesystems || modprobe -d /mnt/fake overlay || give_up "no overlay module"
    root=/mnt/root
    mount -n -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay $root || give_up "no overlay"
    mount -n -t proc proc $root/proc
    mount -n -t sysfs sysfs $root/sys
    mount -n -t tmpfs -o mode=755 run $root/run
    mount -n -t devtmpfs dev $root/dev 2> /dev/null || mount -n -t tmpfs -o mode=755 dev $root/dev
    mkdir -p $root/dev/pts $root/dev/shm $root/dev/net
    mount -n -t devpts pts $root/dev/pts
    mount -n -t tmpfs -o mode=1777 shm $root/dev/shm
    make_node net/tun 10 200; make_node null 1 3; make_node zero 1 5; make_node random 1 8; make_node urandom 1 9
    ln -sf /proc/self/fd $root/dev/fd
    # modprobe, and the kernel's own calls of it, look for /lib/modules/RELEASE.
    mkdir -p $root/usr/lib/modules
    [ -e "$root/usr/lib/modules/$release" ] || ln -s "$modules" "$root/usr/lib/modules/$release"
    { echo "$JOB"; cat "$JOB/writable"; } | while read -r folder; do
        mkdir -p "$root$folder"
        # The folder is the whole option for older kernels, and the value of an option of its own for newer ones.
        mount -n -t hostfs -o "$folder" none "$root$folder" 2>/dev/null \
            || mount -n -t hostfs -o "hostfs=$folder" none "$root$folder" || complain "cannot mount $folder writable"
    done
    cd $root || give_up "no root"
    # Not chroot: the kernel starts modprobe in the root of the first process, and must find it and its modules there.
    pivot_root . mnt || give_up "no pivot_root"
    exec chroot . /bin/sh "$JOB/init" stage_2
}

make_node() { [ -e "$root/dev/$1" ] || mknod -m 666 "$root/dev/$1" c "$2" "$3"; }

# An algorithm is loaded by the first SA that asks for it, which takes most of a second: before the clock runs, then.
prewarm() {
    key=00112233445566778899aabbccddeeff
    key32=$key$key
    number=256
    try() {
        ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi $number mode tunnel "$@" || complain "no $*"
        number=$((number + 1))
    }
    try aead 'rfc4106(gcm(aes))' 0x${key}01020304 128
    try aead 'rfc7539esp(chacha20,poly1305)' 0x${key32}01020304 128
    for auth in "sha1 ${key}01020304 96" "sha256 $key32 128" "sha384 $key32$key 192" "sha512 $key32$key32 256"; do
        set -- $auth
        try enc 'cbc(aes)' 0x$key auth-trunc "hmac($1)" "0x$2" "$3"
    done
    ip xfrm state flush
}

stage_2() {
    rm -f /etc/resolv.conf
    for module in xfrm_user esp4 esp6 veth tun sch_netem; do
        modprobe $module || complain "no module $module"
    done
    ip link set lo up
    [ -e "$JOB/prewarm" ] && prewarm 2>> "$JOB/out"
    cut -d' ' -f1 /proc/uptime > "$JOB/up"
    /bin/sh "$JOB/main" < /dev/null >> "$JOB/out" 2>&1
    echo $? > "$JOB/rc.new"
    sync
    mv "$JOB/rc.new" "$JOB/rc"
    power_off
}

"${1:-stage_1}"
