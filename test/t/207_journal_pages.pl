# A journal that runs backwards lists the states of one second of a record over several pages, the latest
# first. What the last page says is the oldest, and must not stand for the record.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('journal_pages', systems => []);
my $sandbox = $hub->sandbox;
my $COUNT = 40;

# Stripe's manifest with pages of an odd size, so that states of most records lie on two of them.
my $manifest = $json->decode(SyncExt::Hub::manifest('stripe'));
@$manifest{qw(name version)} = ('paged', '1');
$manifest->{objects}{customer}{pull}{events}{page_size} = 7;
my $text = $json->encode($manifest);
$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
$hub->node->secret('billing', 'api_key', $SyncExt::Hub::STRIPE_KEY);
$hub->sql("CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'paged', base_url '" . $sandbox->url . "', rate_limit '1000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key');
	SELECT sync.create_stream('billing', 'customer')");

sub poll { $hub->sql("SELECT sync.request_pull('billing', 'customer')"); $hub->wait_idle; return }

sub wrong
{
	my ($state) = @_;
	return $hub->value("SELECT count(*) FROM app.customer WHERE name NOT LIKE '%$state'");
}

# Reads by id answer late, so that the next page comes before what the page before it asked for.
$sandbox->fault(kind => 'latency', ms => 400, times => 100_000, match => { method => 'GET', path => '/v1/customers/cus_*' });
# All states of a record are of one second: nothing but a read tells which is the last.
$sandbox->fault(kind => 'same_second', times => 100_000, match => { method => 'POST', path => '/v1/customers*' });
poll();    # an empty list; from here on the journal is read
my @id;
foreach my $n (1 .. $COUNT)
{
	my $customer = $sandbox->stripe(POST => '/v1/customers', { name => "C$n new", email => "c$n\@example.com" });
	push @id, $customer->{id};
	$sandbox->stripe(POST => "/v1/customers/$customer->{id}", { name => "C$n $_" }) foreach 'changed', 'final';
}
poll();
is($hub->value('SELECT count(*) FROM app.customer'), $COUNT, 'all are here');
is(wrong('final'), 0, 'each as it was last');
poll();
is(wrong('final'), 0, 'also after what is listed once more');

# The same of records that are known.
foreach my $n (1 .. $COUNT)
{
	$sandbox->stripe(POST => "/v1/customers/$id[$n - 1]", { name => "C$n $_" }) foreach 'one', 'two', 'three', 'last';
}
poll() foreach 1 .. 2;
is(wrong('last'), 0, 'changes of known records end as they ended there');
is($hub->value('SELECT count(*) FROM sync.inbox'), 0, 'and nothing waits');
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'all invariants hold');

done_testing();
