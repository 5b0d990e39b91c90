/* Linux's TCP over its loopback, both ends in one thread, congestion control CUBIC.
 *
 * loopback bulk BYTES WRITE     one connection, writes and reads of WRITE bytes in turn
 * loopback connect COUNT        connect, accept, close by both, one after the other
 *
 * Prints CPU seconds, user and system, and the MSS. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in self;

static double cpu(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void need(int right, const char *what)
{
    if (!right) {
        perror(what);
        exit(1);
    }
}

static int tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    need(fd >= 0, "socket");
    need(!setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5), "cubic");
    return fd;
}

static int listening(void)
{
    socklen_t size = sizeof(self);
    int fd = tcp();

    self.sin_family = AF_INET;
    self.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    need(!bind(fd, (struct sockaddr *)&self, size), "bind");
    need(!listen(fd, 128), "listen");
    need(!getsockname(fd, (struct sockaddr *)&self, &size), "getsockname");
    return fd;
}

static void bulk(int listener, unsigned long todo, size_t size)
{
    int there, here = tcp(), mss;
    socklen_t length = sizeof(mss);
    unsigned long unsent = todo, unread = todo;
    char *out = calloc(1, size), *in = calloc(1, size);
    double started;
    ssize_t n;

    need(!connect(here, (struct sockaddr *)&self, sizeof(self)), "connect");
    there = accept(listener, NULL, NULL);
    need(there >= 0 && out && in, "accept");
    fcntl(here, F_SETFL, O_NONBLOCK);
    fcntl(there, F_SETFL, O_NONBLOCK);
    started = cpu();
    while (unread) {
        if (unsent) {
            n = write(here, out, size < unsent ? size : unsent);
            need(n >= 0 || errno == EAGAIN, "write");
            unsent -= n > 0 ? n : 0;
        }
        n = read(there, in, size);
        need(n > 0 || errno == EAGAIN, "read");
        unread -= n > 0 ? n : 0;
    }
    started = cpu() - started;
    need(!getsockopt(here, IPPROTO_TCP, TCP_MAXSEG, &mss, &length), "MSS");
    printf("%.6f %d\n", started, mss);
}

static void connects(int listener, unsigned long count)
{
    double started = cpu();

    for (unsigned long i = 0; i < count; i++) {
        int there, here = tcp();

        need(!connect(here, (struct sockaddr *)&self, sizeof(self)), "connect");
        there = accept(listener, NULL, NULL);
        need(there >= 0, "accept");
        close(there); /* who closes first keeps TIME-WAIT: here the server, so ports come back */
        close(here);
    }
    printf("%.6f 0\n", cpu() - started);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "bulk"))
        bulk(listening(), strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
    else if (argc == 3 && !strcmp(argv[1], "connect"))
        connects(listening(), strtoul(argv[2], NULL, 10));
    else
        return 2;
    return 0;
}
