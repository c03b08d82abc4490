/* Prints "name hex" lines: structures and attributes filled by name through the kernel's own header.
 * cc -o make_golden make_golden.c && ./make_golden > little-endian-64.txt
 */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void show(const char *name, const void *octets, size_t size)
{
	printf("%s ", name);
	for (size_t i = 0; i < size; i++)
		printf("%02x", ((const unsigned char *)octets)[i]);
	printf("\n");
}

static void address(xfrm_address_t *to, int family, const char *text)
{
	if (inet_pton(family, text, to) != 1)
		exit(1);
}

static struct xfrm_lifetime_cfg forever(void)
{
	return (struct xfrm_lifetime_cfg){
		.soft_byte_limit = XFRM_INF, .hard_byte_limit = XFRM_INF,
		.soft_packet_limit = XFRM_INF, .hard_packet_limit = XFRM_INF,
	};
}

/* UDP from 192.0.2.0/24, ports 18688-18751, to 198.51.100.7 port 862 */
static struct xfrm_selector selector4(void)
{
	struct xfrm_selector sel = {
		.dport = htons(862), .dport_mask = htons(0xffff), .sport = htons(18688), .sport_mask = htons(0xffc0),
		.family = AF_INET, .prefixlen_d = 32, .prefixlen_s = 24, .proto = 17,
	};
	address(&sel.daddr, AF_INET, "198.51.100.7");
	address(&sel.saddr, AF_INET, "192.0.2.0");
	return sel;
}

static struct xfrm_selector selector6(void)
{
	struct xfrm_selector sel = { .family = AF_INET6, .prefixlen_d = 128, .prefixlen_s = 48 };
	address(&sel.daddr, AF_INET6, "2001:db8::2");
	address(&sel.saddr, AF_INET6, "2001:db8:1::");
	return sel;
}

static struct xfrm_usersa_info sa4(void)
{
	struct xfrm_usersa_info sa = {
		.lft = forever(), .reqid = 0x77050009, .family = AF_INET, .mode = XFRM_MODE_TUNNEL,
		.flags = XFRM_STATE_AF_UNSPEC | XFRM_STATE_ESN, .seq = 5,
		.curlft = { .bytes = 1000, .packets = 10, .add_time = 1700000000, .use_time = 1700000001 },
		.stats = { .replay_window = 1, .replay = 2, .integrity_failed = 3 },
	};
	sa.id.spi = htonl(0xc0ffee01);
	sa.id.proto = 50;
	address(&sa.id.daddr, AF_INET, "192.0.2.2");
	address(&sa.saddr, AF_INET, "192.0.2.1");
	return sa;
}

static void messages(void)
{
	struct xfrm_usersa_info sa = sa4();
	show("usersa_info", &sa, sizeof sa);
	struct xfrm_usersa_info sa6 = { .lft = forever(), .sel = selector6(), .reqid = 7, .family = AF_INET6,
		.mode = XFRM_MODE_TRANSPORT, .replay_window = 32 };
	sa6.id.spi = htonl(0x100);
	sa6.id.proto = 50;
	address(&sa6.id.daddr, AF_INET6, "2001:db8::2");
	address(&sa6.saddr, AF_INET6, "2001:db8::1");
	show("usersa_info6", &sa6, sizeof sa6);
	struct xfrm_usersa_id id = { .spi = htonl(0xc0ffee01), .family = AF_INET, .proto = 50 };
	address(&id.daddr, AF_INET, "192.0.2.2");
	show("usersa_id", &id, sizeof id);
	struct xfrm_userspi_info spi = { .info = sa4(), .min = 0x100, .max = 0xffffffff };
	show("userspi_info", &spi, sizeof spi);
	struct xfrm_user_expire expire = { .state = sa4(), .hard = 1 };
	show("user_expire", &expire, sizeof expire);
	struct xfrm_userpolicy_info policy = { .sel = selector4(), .lft = forever(), .priority = 0x7705, .index = 9,
		.dir = XFRM_POLICY_OUT, .action = XFRM_POLICY_ALLOW };
	show("userpolicy_info", &policy, sizeof policy);
	struct xfrm_userpolicy_id policy_id = { .sel = selector4(), .index = 9, .dir = XFRM_POLICY_FWD };
	show("userpolicy_id", &policy_id, sizeof policy_id);
	struct xfrm_user_acquire acquire = { .sel = selector4(), .policy = policy, .aalgos = ~0, .ealgos = ~0,
		.calgos = ~0, .seq = 4 };
	acquire.id.proto = 50;
	address(&acquire.id.daddr, AF_INET, "192.0.2.2");
	address(&acquire.saddr, AF_INET, "192.0.2.1");
	show("user_acquire", &acquire, sizeof acquire);
	struct xfrm_usersa_flush flush = { .proto = 255 };
	show("usersa_flush", &flush, sizeof flush);
}

static void parts(void)
{
	struct xfrm_selector four = selector4(), six = selector6();
	show("selector", &four, sizeof four);
	show("selector6", &six, sizeof six);
	struct xfrm_lifetime_cfg lft = { 1, 2, 3, 4, 5, 6, 7, 8 };
	show("lifetime_cfg", &lft, sizeof lft);
	struct xfrm_user_tmpl tmpl = { .family = AF_INET, .reqid = 0x77050009, .mode = XFRM_MODE_TUNNEL,
		.aalgos = ~0, .ealgos = ~0, .calgos = ~0 };
	tmpl.id.spi = htonl(0xc0ffee01);
	tmpl.id.proto = 50;
	address(&tmpl.id.daddr, AF_INET, "192.0.2.2");
	address(&tmpl.saddr, AF_INET, "192.0.2.1");
	show("user_tmpl", &tmpl, sizeof tmpl);
	struct xfrm_encap_tmpl encap = { .encap_type = 2, .encap_sport = htons(4500), .encap_dport = htons(40001) };
	show("encap_tmpl", &encap, sizeof encap);
	struct xfrm_replay_state legacy = { .oseq = 1, .seq = 2, .bitmap = 3 };
	show("replay_state", &legacy, sizeof legacy);
}

static void variable(void)
{
	unsigned char key[36];
	for (int i = 0; i < 36; i++)
		key[i] = i;
	unsigned char room[256] = { 0 };
	struct xfrm_algo_aead *aead = (void *)room;
	strcpy(aead->alg_name, "rfc4106(gcm(aes))");
	aead->alg_key_len = 36 * 8;
	aead->alg_icv_len = 128;
	memcpy(aead->alg_key, key, 36);
	show("algo_aead", room, sizeof *aead + 36);
	memset(room, 0, sizeof room);
	struct xfrm_algo_auth *auth = (void *)room;
	strcpy(auth->alg_name, "hmac(sha256)");
	auth->alg_key_len = 32 * 8;
	auth->alg_trunc_len = 128;
	memcpy(auth->alg_key, key, 32);
	show("algo_auth", room, sizeof *auth + 32);
	memset(room, 0, sizeof room);
	struct xfrm_algo *crypt = (void *)room;
	strcpy(crypt->alg_name, "cbc(aes)");
	crypt->alg_key_len = 16 * 8;
	memcpy(crypt->alg_key, key, 16);
	show("algo", room, sizeof *crypt + 16);
	memset(room, 0, sizeof room);
	struct xfrm_replay_state_esn *esn = (void *)room;
	*esn = (struct xfrm_replay_state_esn){ .bmp_len = 2, .oseq = 1, .seq = 2, .oseq_hi = 3, .seq_hi = 4,
		.replay_window = 64 };
	esn->bmp[0] = 5;
	esn->bmp[1] = 6;
	show("replay_state_esn", room, sizeof *esn + 8);
}

int main(void)
{
	parts();
	variable();
	messages();
	return 0;
}
