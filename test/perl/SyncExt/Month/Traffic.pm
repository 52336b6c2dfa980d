# What goes on meanwhile, at one customer of ten: the application changes customers, clerks rename
# them in the ERP and in billing, billing issues invoices and takes payments, and the hub carries all
# of it. A process of its own, until stop().
package SyncExt::Month::Traffic;

use strict;
use utf8;
use warnings;

use POSIX ();
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, $month) = @_;
	return bless { month => $month }, $class;
}

sub start
{
	my ($self, %option) = @_;
	my $month = $self->{month};

	$self->{customers} = $month->rows(q(SELECT c.id, c.number, m.n, m.entity, m.remote AS billing, month.remote_of('customer', c.id, 'erp_' || lower(m.entity)) AS erp, lower(m.currency) AS currency
		FROM month.customer m JOIN canonical.customer c USING (id) WHERE m.n % 10 = 0 ORDER BY m.n LIMIT 500));
	$self->{began} = $month->psql('SELECT clock_timestamp();');
	my $pid = fork // die "cannot fork: $!\n";
	if ($pid == 0)
	{
		# Systems that others started are theirs to end.
		local $SIG{TERM} = sub { POSIX::_exit(0) };
		$self->work(grep { !$option{quietly} || $_ ne 'invoice' } qw(app_writes app_writes billing_writes erp_writes invoice));
		POSIX::_exit(1);
	}
	$self->{pid} = $pid;
	return;
}

sub stop
{
	my ($self) = @_;
	my $month = $self->{month};
	my $pid = delete $self->{pid} or return;

	kill 'TERM', $pid;
	waitpid $pid, 0;
	$month->is($?, 0, 'traffic went on until it was stopped');
	return;
}

# The books of what it billed, and how much it was.
sub settle
{
	my ($self) = @_;
	my $month = $self->{month};

	$month->settle;
	$month->script('06_books', first => 'false');
	$month->settle;
	my ($did) = @{ $month->rows("SELECT (SELECT count(*) FROM canonical.invoice WHERE created_at > '$self->{began}') AS invoices,
		(SELECT count(*) FROM sync.delivery WHERE event_at > '$self->{began}' AND state = 'done') AS pushed") };
	$month->tell("   traffic: $did->{invoices} new invoices, $did->{pushed} pushes");
	return;
}

sub DESTROY { my ($self) = @_; kill 'KILL', $self->{pid} if $self->{pid}; return }

sub work
{
	my ($self, @act) = @_;
	my @customer = @{ $self->{customers} };
	my $round = 0;

	for (;;)
	{
		my $act = $act[ $round % @act ];
		$self->$act($customer[ $round % @customer ], ++$round);
		sleep 0.2;
	}
	return;
}

sub app_writes
{
	my ($self, $customer, $round) = @_;
	$self->{month}->psql("UPDATE canonical.customer SET billing_email = 'billing$customer->{n}.$round\@customer.example' WHERE id = '$customer->{id}';");
	return;
}

sub billing_writes
{
	my ($self, $customer, $round) = @_;
	$self->{month}{billing}{ $customer->{entity} }->stripe(POST => "/v1/customers/$customer->{billing}", { name => "Renamed in billing $round" });
	return;
}

sub erp_writes
{
	my ($self, $customer, $round) = @_;
	$self->{month}{erp}{ $customer->{entity} }->model('party.party.write', [ $customer->{erp} + 0 ], { name => "Renamed in the ERP $round" });
	return;
}

# A fee of today, paid at once.
sub invoice
{
	my ($self, $customer, $round) = @_;
	my $billing = $self->{month}{billing}{ $customer->{entity} };
	my $invoice = $billing->stripe(POST => '/v1/invoices', { customer => $customer->{billing}, currency => $customer->{currency}, pending_invoice_items_behavior => 'exclude' });

	$billing->stripe(POST => '/v1/invoiceitems',
		{ customer => $customer->{billing}, invoice => $invoice->{id}, currency => $customer->{currency}, amount => 1000 + $round, description => "Fee $round" });
	$billing->stripe(POST => "/v1/invoices/$invoice->{id}/pay", {});
	return;
}

1;
