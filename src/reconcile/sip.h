/*
 * sip.h: SipHash-1-3, a hash of 64 bits under a secret key of 128.
 *
 * After J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF". Who does not know the key cannot
 * find values that cancel each other out, not even one who chooses them.
 */
#ifndef SE_RECONCILE_SIP_H
#define SE_RECONCILE_SIP_H

#include "postgres.h"

#define SE_SIP_KEY_LEN 16

static inline uint64
se_sip_rotl(uint64 v, int bits)
{
	return v << bits | v >> (64 - bits);
}

#define SE_SIP_ROUND(v)                                                                            \
	do                                                                                             \
	{                                                                                              \
		(v)[0] += (v)[1];                                                                          \
		(v)[2] += (v)[3];                                                                          \
		(v)[1] = se_sip_rotl((v)[1], 13) ^ (v)[0];                                                 \
		(v)[3] = se_sip_rotl((v)[3], 16) ^ (v)[2];                                                 \
		(v)[0] = se_sip_rotl((v)[0], 32);                                                          \
		(v)[2] += (v)[1];                                                                          \
		(v)[0] += (v)[3];                                                                          \
		(v)[1] = se_sip_rotl((v)[1], 17) ^ (v)[2];                                                 \
		(v)[3] = se_sip_rotl((v)[3], 21) ^ (v)[0];                                                 \
		(v)[2] = se_sip_rotl((v)[2], 32);                                                          \
	} while (0)

static inline uint64
se_sip(const uint8 *key, const char *data, size_t len)
{
	uint64 k[2];
	uint64 v[4];
	uint64 word;
	uint64 last = (uint64) len << 56;
	size_t whole = len & ~(size_t) 7;

	memcpy(k, key, SE_SIP_KEY_LEN);
	v[0] = k[0] ^ UINT64CONST(0x736f6d6570736575);
	v[1] = k[1] ^ UINT64CONST(0x646f72616e646f6d);
	v[2] = k[0] ^ UINT64CONST(0x6c7967656e657261);
	v[3] = k[1] ^ UINT64CONST(0x7465646279746573);
	for (size_t i = 0; i < whole; i += 8)
	{
		memcpy(&word, data + i, 8);
		v[3] ^= word;
		SE_SIP_ROUND(v);
		v[0] ^= word;
	}
	for (size_t i = whole; i < len; i++)
		last |= (uint64) (uint8) data[i] << (8 * (i - whole));
	v[3] ^= last;
	SE_SIP_ROUND(v);
	v[0] ^= last;
	v[2] ^= 0xff;
	SE_SIP_ROUND(v);
	SE_SIP_ROUND(v);
	SE_SIP_ROUND(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
