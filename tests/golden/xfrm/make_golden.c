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

/* Everything below is static, thus zero with its padding, and filled field by field: a copied or initialized
 * structure may have anything in its padding. */

static void forever(struct xfrm_lifetime_cfg *lft)
{
	lft->soft_byte_limit = lft->hard_byte_limit = XFRM_INF;
	lft->soft_packet_limit = lft->hard_packet_limit = XFRM_INF;
}

/* UDP from 192.0.2.0/24, ports 18688-18751, to 198.51.100.7 port 862 */
static void selector4(struct xfrm_selector *sel)
{
	sel->dport = htons(862);
	sel->dport_mask = htons(0xffff);
	sel->sport = htons(18688);
	sel->sport_mask = htons(0xffc0);
	sel->family = AF_INET;
	sel->prefixlen_d = 32;
	sel->prefixlen_s = 24;
	sel->proto = 17;
	address(&sel->daddr, AF_INET, "198.51.100.7");
	address(&sel->saddr, AF_INET, "192.0.2.0");
}

static void selector6(struct xfrm_selector *sel)
{
	sel->family = AF_INET6;
	sel->prefixlen_d = 128;
	sel->prefixlen_s = 48;
	address(&sel->daddr, AF_INET6, "2001:db8::2");
	address(&sel->saddr, AF_INET6, "2001:db8:1::");
}

static void sa4(struct xfrm_usersa_info *sa)
{
	forever(&sa->lft);
	sa->reqid = 0x77050009;
	sa->family = AF_INET;
	sa->mode = XFRM_MODE_TUNNEL;
	sa->flags = XFRM_STATE_AF_UNSPEC | XFRM_STATE_ESN;
	sa->seq = 5;
	sa->curlft.bytes = 1000;
	sa->curlft.packets = 10;
	sa->curlft.add_time = 1700000000;
	sa->curlft.use_time = 1700000001;
	sa->stats.replay_window = 1;
	sa->stats.replay = 2;
	sa->stats.integrity_failed = 3;
	sa->id.spi = htonl(0xc0ffee01);
	sa->id.proto = 50;
	address(&sa->id.daddr, AF_INET, "192.0.2.2");
	address(&sa->saddr, AF_INET, "192.0.2.1");
}

static void policy4(struct xfrm_userpolicy_info *policy)
{
	selector4(&policy->sel);
	forever(&policy->lft);
	policy->priority = 0x7705;
	policy->index = 9;
	policy->dir = XFRM_POLICY_OUT;
	policy->action = XFRM_POLICY_ALLOW;
}

static void messages(void)
{
	static struct xfrm_usersa_info sa, sa6;
	sa4(&sa);
	show("usersa_info", &sa, sizeof sa);
	forever(&sa6.lft);
	selector6(&sa6.sel);
	sa6.reqid = 7;
	sa6.family = AF_INET6;
	sa6.mode = XFRM_MODE_TRANSPORT;
	sa6.replay_window = 32;
	sa6.id.spi = htonl(0x100);
	sa6.id.proto = 50;
	address(&sa6.id.daddr, AF_INET6, "2001:db8::2");
	address(&sa6.saddr, AF_INET6, "2001:db8::1");
	show("usersa_info6", &sa6, sizeof sa6);
	static struct xfrm_usersa_id id;
	id.spi = htonl(0xc0ffee01);
	id.family = AF_INET;
	id.proto = 50;
	address(&id.daddr, AF_INET, "192.0.2.2");
	show("usersa_id", &id, sizeof id);
	static struct xfrm_userspi_info spi;
	sa4(&spi.info);
	spi.min = 0x100;
	spi.max = 0xffffffff;
	show("userspi_info", &spi, sizeof spi);
	static struct xfrm_user_expire expire;
	sa4(&expire.state);
	expire.hard = 1;
	show("user_expire", &expire, sizeof expire);
	static struct xfrm_user_mapping mapping;
	mapping.id = id;
	mapping.reqid = 50;
	address(&mapping.old_saddr, AF_INET, "192.0.2.1");
	address(&mapping.new_saddr, AF_INET, "203.0.113.5");
	mapping.old_sport = htons(4500);
	mapping.new_sport = htons(40001);
	show("user_mapping", &mapping, sizeof mapping);
	static struct xfrm_userpolicy_info policy;
	policy4(&policy);
	show("userpolicy_info", &policy, sizeof policy);
	static struct xfrm_userpolicy_id policy_id;
	selector4(&policy_id.sel);
	policy_id.index = 9;
	policy_id.dir = XFRM_POLICY_FWD;
	show("userpolicy_id", &policy_id, sizeof policy_id);
	static struct xfrm_user_acquire acquire;
	selector4(&acquire.sel);
	policy4(&acquire.policy);
	acquire.aalgos = acquire.ealgos = acquire.calgos = ~0;
	acquire.seq = 4;
	acquire.id.proto = 50;
	address(&acquire.id.daddr, AF_INET, "192.0.2.2");
	address(&acquire.saddr, AF_INET, "192.0.2.1");
	show("user_acquire", &acquire, sizeof acquire);
	static struct xfrm_usersa_flush flush;
	flush.proto = 255;
	show("usersa_flush", &flush, sizeof flush);
}

static void parts(void)
{
	static struct xfrm_selector four, six;
	selector4(&four);
	selector6(&six);
	show("selector", &four, sizeof four);
	show("selector6", &six, sizeof six);
	static struct xfrm_lifetime_cfg lft = { 1, 2, 3, 4, 5, 6, 7, 8 };
	show("lifetime_cfg", &lft, sizeof lft);
	static struct xfrm_user_tmpl tmpl;
	tmpl.family = AF_INET;
	tmpl.reqid = 0x77050009;
	tmpl.mode = XFRM_MODE_TUNNEL;
	tmpl.aalgos = tmpl.ealgos = tmpl.calgos = ~0;
	tmpl.id.spi = htonl(0xc0ffee01);
	tmpl.id.proto = 50;
	address(&tmpl.id.daddr, AF_INET, "192.0.2.2");
	address(&tmpl.saddr, AF_INET, "192.0.2.1");
	show("user_tmpl", &tmpl, sizeof tmpl);
	static struct xfrm_encap_tmpl encap;
	encap.encap_type = 2;
	encap.encap_sport = htons(4500);
	encap.encap_dport = htons(40001);
	show("encap_tmpl", &encap, sizeof encap);
	static struct xfrm_replay_state legacy = { .oseq = 1, .seq = 2, .bitmap = 3 };
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

/* One attribute behind a fixed part, as libnl and iproute2 add it: padded to 4 octets. */
static size_t attribute(unsigned char *at, unsigned short type, const void *octets, size_t size)
{
	struct nlattr header = { .nla_len = NLA_HDRLEN + size, .nla_type = type };
	memcpy(at, &header, sizeof header);
	memcpy(at + NLA_HDRLEN, octets, size);
	return NLA_ALIGN(header.nla_len);
}

/* Headers before Linux 6.10 lack it; the enumeration goes on behind XFRMA_MTIMER_THRESH. */
#define SA_DIR (XFRMA_MTIMER_THRESH + 1)
#define SA_DIR_IN 1
#define SA_DIR_OUT 2

/* An SA of an XFRM interface that says its direction and is the business of device 7; notices: never. */
static void newer(void)
{
	static unsigned char room[1024];
	static struct xfrm_user_offload offload;
	unsigned int if_id = 42, never = 0;
	unsigned char in = SA_DIR_IN, out = SA_DIR_OUT;
	size_t at = sizeof(struct xfrm_usersa_info);
	sa4((struct xfrm_usersa_info *)room);
	offload.ifindex = 7;
	offload.flags = XFRM_OFFLOAD_INBOUND;
	at += attribute(room + at, XFRMA_OFFLOAD_DEV, &offload, sizeof offload);
	at += attribute(room + at, XFRMA_IF_ID, &if_id, sizeof if_id);
	at += attribute(room + at, SA_DIR, &in, sizeof in);
	at += attribute(room + at, XFRMA_REPLAY_THRESH, &never, sizeof never);
	at += attribute(room + at, XFRMA_ETIMER_THRESH, &never, sizeof never);
	show("newsa_inbound", room, at);
	memset(room, 0, sizeof room);
	at = sizeof(struct xfrm_usersa_info);
	sa4((struct xfrm_usersa_info *)room);
	offload.flags = XFRM_OFFLOAD_PACKET;
	at += attribute(room + at, XFRMA_OFFLOAD_DEV, &offload, sizeof offload);
	at += attribute(room + at, XFRMA_IF_ID, &if_id, sizeof if_id);
	at += attribute(room + at, SA_DIR, &out, sizeof out);
	show("newsa_outbound", room, at);
	memset(room, 0, sizeof room);
	at = sizeof(struct xfrm_userpolicy_info);
	policy4((struct xfrm_userpolicy_info *)room);
	at += attribute(room + at, XFRMA_IF_ID, &if_id, sizeof if_id);
	at += attribute(room + at, XFRMA_OFFLOAD_DEV, &offload, sizeof offload);
	show("newpolicy", room, at);
	memset(room, 0, sizeof room);
	struct xfrm_userpolicy_id *policy = (void *)room;
	at = sizeof *policy;
	selector4(&policy->sel);
	policy->dir = XFRM_POLICY_OUT;
	at += attribute(room + at, XFRMA_IF_ID, &if_id, sizeof if_id);
	show("delpolicy", room, at);
	static struct xfrm_user_migrate migrate;
	address(&migrate.old_daddr, AF_INET, "192.0.2.2");
	address(&migrate.old_saddr, AF_INET, "192.0.2.1");
	address(&migrate.new_daddr, AF_INET6, "2001:db8::2");
	address(&migrate.new_saddr, AF_INET6, "2001:db8::1");
	migrate.proto = 50;
	migrate.mode = XFRM_MODE_TUNNEL;
	migrate.reqid = 0x77050009;
	migrate.old_family = AF_INET;
	migrate.new_family = AF_INET6;
	show("user_migrate", &migrate, sizeof migrate);
	static struct xfrm_encap_tmpl encap;
	encap.encap_type = 2;
	encap.encap_sport = htons(4500);
	encap.encap_dport = htons(40001);
	at += attribute(room + at, XFRMA_MIGRATE, &migrate, sizeof migrate);
	at += attribute(room + at, XFRMA_ENCAP, &encap, sizeof encap);
	show("migrate", room, at);
	memset(room, 0, sizeof room);
	struct xfrm_aevent_id *aevent = (void *)room;
	at = sizeof *aevent;
	aevent->sa_id.spi = htonl(0xc0ffee01);
	aevent->sa_id.family = AF_INET;
	aevent->sa_id.proto = 50;
	address(&aevent->sa_id.daddr, AF_INET, "192.0.2.2");
	aevent->flags = XFRM_AE_RTHR | XFRM_AE_ETHR;
	at += attribute(room + at, XFRMA_REPLAY_THRESH, &never, sizeof never);
	at += attribute(room + at, XFRMA_ETIMER_THRESH, &never, sizeof never);
	show("newae", room, at);
	aevent->flags = XFRM_AE_RVAL | XFRM_AE_CR;
	address(&aevent->saddr, AF_INET, "192.0.2.1");
	aevent->reqid = 0x77050009;
	show("aevent_id", room, sizeof *aevent);
	memset(room, 0, sizeof room);
	struct xfrm_userspi_info *spi = (void *)room;
	at = sizeof *spi;
	sa4(&spi->info);
	spi->min = 0x100;
	spi->max = 0xffffffff;
	at += attribute(room + at, SA_DIR, &in, sizeof in);
	show("allocspi", room, at);
}

int main(void)
{
	parts();
	variable();
	messages();
	newer();
	return 0;
}
