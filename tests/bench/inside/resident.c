/* resident NAME MIB TICK_MS [ZEROES_MIB]: hold MIB MiB of memory that cannot be compressed, and so
 * many that were written with zeroes; then wake up for ever.
 *
 * It is called NAME from the moment when all of its memory is there; whoever watches its context
 * switches sees it run.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	size_t zeroes = argc > 4 ? (size_t)atol(argv[4]) << 20 : 0;
	size_t size = (size_t)atol(argv[2]) << 20;
	uint64_t *words = mmap(NULL, size + zeroes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED)
		return 1;
	uint64_t value = 88172645463325252u; /* xorshift64 */
	for (size_t i = 0; i < size / sizeof *words; i++) {
		value ^= value << 13;
		value ^= value >> 7;
		value ^= value << 17;
		words[i] = value;
	}
	memset((char *)words + size, 0, zeroes);
	prctl(PR_SET_NAME, argv[1]);
	for (;;)
		usleep(1000 * atoi(argv[3]));
}
