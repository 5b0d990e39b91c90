/* lwIP: one transfer over its loop interface, by its raw interface. Writes from one buffer that is
 * never changed; what arrives is counted and let go. Prints CPU seconds, MSS and window. */

#include <lwip/ip4_addr.h>
#include <lwip/netif.h>
#include <lwip/priv/tcp_priv.h>
#include <lwip/sys.h>
#include <lwip/tcp.h>
#include <lwip/tcpip.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct netif loop;
static ip_addr_t self;
static sys_sem_t over;
static char data[1 << 16];
static unsigned long todo, unsent, received;
static double started, seconds;
static unsigned mss;

static double cpu(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static err_t output(struct netif *netif, struct pbuf *p, const ip4_addr_t *unused)
{
    (void)unused;
    return netif_loop_output(netif, p);
}

static err_t begin(struct netif *netif)
{
    netif->mtu = 1500;
    netif->output = output;
    netif->flags = NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

static err_t go_on(void *unused, struct tcp_pcb *pcb, u16_t length)
{
    (void)unused, (void)length;
    while (unsent) {
        unsigned long piece = tcp_sndbuf(pcb);
        if (piece > unsent)
            piece = unsent;
        if (piece > sizeof(data))
            piece = sizeof(data);
        if (!piece || tcp_write(pcb, data, (u16_t)(piece > 0xFFFF ? 0xFFFF : piece), 0) != ERR_OK)
            break;
        unsent -= piece > 0xFFFF ? 0xFFFF : piece;
    }
    tcp_output(pcb);
    return ERR_OK;
}

static err_t take(void *unused, struct tcp_pcb *pcb, struct pbuf *p, err_t problem)
{
    (void)unused, (void)problem;
    if (!p)
        return ERR_OK;
    received += p->tot_len;
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    if (received == todo) {
        seconds = cpu() - started;
        sys_sem_signal(&over);
    }
    return ERR_OK;
}

static err_t accepted(void *unused, struct tcp_pcb *pcb, err_t problem)
{
    (void)unused, (void)problem;
    tcp_recv(pcb, take);
    return ERR_OK;
}

static err_t connected(void *unused, struct tcp_pcb *pcb, err_t problem)
{
    (void)unused, (void)problem;
    mss = tcp_mss(pcb);
    started = cpu();
    tcp_sent(pcb, go_on);
    return go_on(NULL, pcb, 0);
}

static void start(void *unused)
{
    struct tcp_pcb *listener = tcp_new(), *client = tcp_new();

    (void)unused;
    tcp_bind(listener, &self, 5001);
    listener = tcp_listen(listener);
    tcp_accept(listener, accepted);
    tcp_connect(client, &self, 5001, connected);
}

int main(int argc, char **argv)
{
    ip4_addr_t mask, gateway;

    todo = unsent = argc > 1 ? strtoul(argv[1], NULL, 10) : 1ul << 30;
    IP_ADDR4(&self, 10, 0, 0, 1);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    IP4_ADDR(&gateway, 10, 0, 0, 1);
    tcpip_init(NULL, NULL);
    sys_sem_new(&over, 0);
    LOCK_TCPIP_CORE();
    netif_add(&loop, ip_2_ip4(&self), &mask, &gateway, NULL, begin, tcpip_input);
    netif_set_up(&loop);
    UNLOCK_TCPIP_CORE();
    tcpip_callback(start, NULL);
    sys_sem_wait(&over);
    printf("%.6f %u %u\n", seconds, mss, (unsigned)TCP_WND);
    return 0;
}
