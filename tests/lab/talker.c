/*
 * The first process of a test's guest, which talks as fast as it can.
 *
 * It writes as many numbered lines into the kernel's log as its first argument
 * says, the text of each following from its number; then it shows on the
 * console what /dev/kmsg has, between two marks, and does nothing more. With a
 * second argument it waits so many milliseconds after each line, and shows
 * what /dev/kmsg has as it goes. There is no libc in it, so any compiler for
 * the target makes it.
 */

enum { EXIT = 1, READ = 3, WRITE = 4, OPEN = 5, MOUNT = 21, PAUSE = 29, MKDIR = 39, NANOSLEEP = 162 };
enum { READ_ONLY = 0, READ_WRITE = 2, NONBLOCK = 04000, EAGAIN = 11 };

/* The kernel enters with the entry's own address in r12; r1 points at argc. */
asm(".globl _start\n"
    "_start:\n"
    "addis 2, 12, .TOC.-_start@ha\n"
    "addi 2, 2, .TOC.-_start@l\n"
    "mr 3, 1\n"
    "stdu 1, -64(1)\n"
    "bl talk\n"
    "nop\n");

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r0 asm("r0") = number;
	register long r3 asm("r3") = a;
	register long r4 asm("r4") = b;
	register long r5 asm("r5") = c;
	register long r6 asm("r6") = d;
	register long r7 asm("r7") = e;

	/* An error is a positive number and the summary overflow bit. */
	asm volatile("sc\n"
		     "bns+ 1f\n"
		     "neg 3, 3\n"
		     "1:"
		     : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7)
		     :
		     : "memory", "cr0", "ctr", "xer", "r8", "r9", "r10", "r11", "r12");
	return r3;
}

static long open_file(const char *path, long flags)
{
	return call(OPEN, (long)path, flags, 0, 0, 0);
}

static void say(long console, const char *text)
{
	long len = 0;

	while (text[len])
		len++;
	call(WRITE, console, (long)text, len, 0, 0);
}

/* Room for a record of /dev/kmsg, at most 8 KiB. */
static char buffer[8192];

static char *number(char *at, long value)
{
	char digits[20];
	int count = 0;

	do
		digits[count++] = '0' + value % 10;
	while (value /= 10);
	while (count)
		*at++ = digits[--count];
	return at;
}

/* tests/boot/live_ring.rs knows what line N is, too. */
static void write_line(long kmsg, long n)
{
	char *at = buffer;

	for (const char *head = "<6>tick "; *head; head++)
		*at++ = *head;
	at = number(at, n);
	*at++ = ' ';
	for (long left = n * 7 % 300 + 1; left; left--)
		*at++ = 'a' + n % 26;
	/* Without it the record stays open, and /dev/kmsg holds it back. */
	*at++ = '\n';
	call(WRITE, kmsg, (long)buffer, at - buffer, 0, 0);
}

/* Show what /dev/kmsg has. Any other error: a record was overwritten, read on. */
static void show(long kmsg, long console)
{
	long len;

	while ((len = call(READ, kmsg, (long)buffer, sizeof(buffer), 0, 0)) != -EAGAIN)
		if (len > 0)
			call(WRITE, console, (long)buffer, len, 0, 0);
}

/* The argument at that place, a number; 0 where there is none. */
static long argument(const long *stack, long place)
{
	long value = 0;

	if (stack[0] > place)
		for (const char *digit = (const char *)stack[1 + place]; *digit; digit++)
			value = value * 10 + *digit - '0';
	return value;
}

/* Talk and listen in turn, waiting in between. */
static void talk_slowly(long kmsg, long console, long lines, long milliseconds)
{
	long pause[2] = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
	long heard = open_file("/dev/kmsg", READ_ONLY | NONBLOCK);

	say(console, "kmsg begins\n");
	for (long n = 0; n < lines; n++) {
		write_line(kmsg, n);
		show(heard, console);
		call(NANOSLEEP, (long)pause, 0, 0, 0, 0);
	}
}

static void talk_fast(long kmsg, long console, long lines)
{
	for (long n = 0; n < lines; n++)
		write_line(kmsg, n);
	kmsg = open_file("/dev/kmsg", READ_ONLY | NONBLOCK);
	say(console, "kmsg begins\n");
	show(kmsg, console);
}

__attribute__((noreturn, used)) static void talk(long *stack)
{
	long lines = argument(stack, 1), milliseconds = argument(stack, 2);
	long kmsg, console;

	call(MKDIR, (long)"/dev", 0755, 0, 0, 0);
	call(MOUNT, (long)"none", (long)"/dev", (long)"devtmpfs", 0, 0);
	console = open_file("/dev/hvc0", READ_WRITE);
	kmsg = open_file("/dev/kmsg", READ_WRITE);
	if (kmsg < 0)
		say(console, "no /dev/kmsg\n");
	say(console, "talking\n");
	if (milliseconds)
		talk_slowly(kmsg, console, lines, milliseconds);
	else
		talk_fast(kmsg, console, lines);
	say(console, "kmsg ends\n");
	for (;;)
		call(PAUSE, 0, 0, 0, 0, 0);
}
