/* Memory whose every block ends against (or begins behind) an inaccessible page: preload it, and what reads or writes
 * beside a block dies at that instruction. Blocks are never handed out again, so what is used after it was freed dies
 * too. Nothing is guarded before guard(1), which begins with all that is allocated; guard(0) ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { PAGE = 4096, GAP = 64 * 1024, FILL = 0xA5 };
#define ARENA ((size_t)48 << 30)
#define LARGEST ((size_t)256 << 20)

struct block {
    uint32_t first, pages;
    size_t size;
};

static char *arena;
static struct block *blocks; /* by the page of the address handed out */
static atomic_size_t used;
static _Thread_local int everything;
static int ready, at_end, tensor_alignment = 1;

__attribute__((constructor)) static void start(void)
{
    const char *side = getenv("GUARD");
    const char *alignment = getenv("GUARD_ALIGNMENT");
    if (!side)
        return;
    at_end = strcmp(side, "before") != 0;
    if (alignment)
        tensor_alignment = atoi(alignment);
    arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    blocks = mmap(NULL, ARENA / PAGE * sizeof(struct block), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ready = arena != MAP_FAILED && blocks != MAP_FAILED;
}

void guard(int on)
{
    everything = on && ready;
}

int guard_is_ready(void)
{
    return ready;
}

size_t guard_left(void)
{
    return ARENA - used;
}

static int ours(const void *address)
{
    return ready && (const char *)address >= arena && (const char *)address <= arena + ARENA;
}

static void *take(size_t alignment, size_t size)
{
    if (size > LARGEST)
        return NULL;
    size_t bytes = (size + PAGE - 1) / PAGE * PAGE;
    size_t whole = bytes ? bytes : PAGE;
    size_t begin = atomic_fetch_add(&used, whole + GAP) + GAP;
    if (begin + whole + GAP > ARENA)
        return NULL;
    char *base = arena + begin;
    if (mprotect(base, whole, PROT_READ | PROT_WRITE))
        return NULL;
    char *address = base;
    if (at_end) {
        address = (char *)((uintptr_t)(base + whole - size) & ~(uintptr_t)(alignment - 1));
        memset(address + size, FILL, base + whole - address - size);
    } else if (whole > size) {
        memset(base + size, FILL, whole - size < 64 ? whole - size : 64);
    }
    struct block *block = blocks + (address - arena) / PAGE;
    *block = (struct block){begin / PAGE, whole / PAGE, size};
    return address;
}

static void give(void *address)
{
    struct block *block = blocks + ((char *)address - arena) / PAGE;
    if (!block->pages)
        abort(); /* freed twice, or never handed out */
    char *base = arena + (size_t)block->first * PAGE;
    size_t whole = (size_t)block->pages * PAGE;
    unsigned char *slack = (unsigned char *)address + block->size;
    for (int place = 0; place < 64 && (char *)slack + place < base + whole; place++)
        if (slack[place] != FILL)
            abort(); /* somebody wrote behind it */
    block->pages = 0;
    mmap(base, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void *malloc(size_t size)
{
    if (!everything)
        return __libc_malloc(size);
    void *address = take(16, size);
    if (!address)
        errno = ENOMEM;
    return address;
}

void *calloc(size_t count, size_t size)
{
    if (!everything)
        return __libc_calloc(count, size);
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return malloc(bytes);
}

void free(void *address)
{
    if (ours(address))
        give(address);
    else
        __libc_free(address);
}

void *realloc(void *address, size_t size)
{
    if (!ours(address) && (address || !everything))
        return __libc_realloc(address, size);
    void *fresh = malloc(size);
    if (fresh && address) {
        size_t had = blocks[((char *)address - arena) / PAGE].size;
        memcpy(fresh, address, had < size ? had : size);
        give(address);
    }
    return fresh;
}

static void *aligned(size_t alignment, size_t size)
{
    return everything ? take(alignment < 16 ? 16 : alignment, size) : __libc_memalign(alignment, size);
}

void *memalign(size_t alignment, size_t size)
{
    return aligned(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return aligned(alignment, size);
}

/* What torch allocates tensors with, aligned to 64 bytes. No kernel of a CPU needs that, and with less the blocks end
 * nearer to their guard. */
int posix_memalign(void **address, size_t alignment, size_t size)
{
    void *fresh = everything && alignment == 64 ? take(tensor_alignment, size) : aligned(alignment, size);
    if (!fresh)
        return ENOMEM;
    *address = fresh;
    return 0;
}

size_t malloc_usable_size(void *address)
{
    if (!address)
        return 0;
    if (ours(address))
        return blocks[((char *)address - arena) / PAGE].size;
    return ((size_t *)address)[-1] & ~(size_t)15; /* at most what the block has; only a hint to its callers */
}
