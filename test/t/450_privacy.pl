# A record is erased: nowhere in the hub, not in a single row of schema sync, is a word of it left; what is on
# its way arrives first, and the other system hears of it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('privacy', streams => 1);
my $sandbox = $hub->sandbox;
my $node = $hub->node;

# Tables of schema sync in which some row holds the text.
sub holds
{
	my ($word) = @_;
	my $tables = $hub->sql(q(SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind = 'r' ORDER BY 1));

	return join ' ', grep { $hub->value("SELECT EXISTS (SELECT FROM $_ t WHERE t::text LIKE '%$word%')") eq 't' } split /\n/, $tables;
}

# What an operator gets, whose role comes first in the answer.
sub operator { my ($query) = @_; return (split /\n/, $hub->sql("SET ROLE privacy_operator; $query"))[-1] }

sub partitions_of { my ($text, $parent) = @_; return $text =~ /sync\.${parent}_p/ }

$hub->sql(q(SELECT sync.set_personal('customer', 'name'); SELECT sync.set_personal('customer', 'billing_email')));
$hub->sql(q(CREATE ROLE privacy_operator IN ROLE sync_operator));
my $id = $hub->value(q(INSERT INTO app.customer (name, billing_email) VALUES ('Xanthippe', 'xanthippe@example.com') RETURNING id));
my $other = $hub->value(q(INSERT INTO app.customer (name, billing_email) VALUES ('Yolanda', 'yolanda@example.com') RETURNING id));
$hub->wait_idle;
$hub->sql(qq(UPDATE app.customer SET billing_email = 'xanthippe\@example.org' WHERE id = '$id'));
$hub->wait_idle;

my $before = holds('anthippe');
ok(partitions_of($before, $_), "$_ holds personal data") foreach qw(outbox claim);
like($before, qr/sync\.mirror/, 'so does the mirror');
is(operator(q(SELECT count(*) FROM sync.delivery_attempt a WHERE a::text LIKE '%anthippe%')), 0,
	'an operator sees none of it in attempts');
is(operator(q(SELECT count(*) > 0 FROM sync.delivery_attempt a WHERE a.request = '(personal)')), 't',
	'but that there were requests');
is($hub->value(q(SELECT count(*) > 0 FROM sync.delivery_attempt a WHERE a.request LIKE '%anthippe%')), 't', 'who may read the table does');

# ---- erasing waits for what is on its way ----

$hub->sql(q(SELECT sync.pause(name) FROM sync.system));
$hub->sql(qq(SELECT sync.erase('customer', '$id', 'asked by the person')));
$hub->sql('SELECT sync._upkeep_personal()');
is($hub->value('SELECT done_at IS NULL FROM sync.erasure'), 't', 'with deliveries on their way it waits');
$hub->sql(q(SELECT sync.resume(name) FROM sync.system));
$hub->wait_idle;
$hub->sql('SELECT sync._upkeep_personal()');
is($hub->value('SELECT done_at IS NOT NULL FROM sync.erasure'), 't', 'when they have ended it is done');
is(holds('anthippe'), '', 'and nothing is left of the record in schema sync');
like(holds('olanda'), qr/sync\.mirror/, 'of others everything is');
is($hub->value("SELECT name || coalesce(billing_email, '') FROM app.customer WHERE id = '$id'"), '(erased)', 'nor in its table');
is($hub->value("SELECT name FROM app.customer WHERE id = '$other'"), 'Yolanda', 'the other record is as it was');
foreach my $system (split /\n/, $hub->sql(q(SELECT name FROM sync.system ORDER BY name)))
{
	is($hub->value(qq(SELECT outcome FROM sync.wait_for('customer', '$id', '$system', '5 s'))), 'done', "$system heard of it");
}
my $records = $sandbox->rest(GET => '/customers', undef, { Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
is(scalar(grep { ($_->{name} . ($_->{email} // '')) =~ /anthippe/ } @{ $records->{data} }), 0, 'and holds nothing of it');
is(scalar(grep { $_->{name} eq 'Yolanda' } @{ $records->{data} }), 1, 'but the other record');

# Later changes of the record go on as ever.
$hub->sql(qq(UPDATE app.customer SET name = 'Nobody' WHERE id = '$id'));
$hub->wait_idle;
is($hub->value(q(SELECT count(*) FROM sync.record_status WHERE state <> 'synced')), 0, 'the record goes on being synchronised');
is($hub->value('SELECT count(*) FROM sync.check_invariants()'), 0, 'all invariants hold');

done_testing();
