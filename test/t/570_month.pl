# The month in small: the same faults at fewer customers. `make month` shows it to a person.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Cluster;
use SyncExt::Month;
use SyncExt::Sandbox;
use SyncExt::Tryton;
use Test::More;

plan skip_all => 'tryton-server is not installed' if !-x SyncExt::Tryton::TRYTOND;

# The handles that PostgreSQL's test modules put in place take bytes.
sub bytes
{
	my ($text) = @_;
	utf8::encode($text) if utf8::is_utf8($text);
	return $text;
}

my $seed = $ENV{SEED} || 7;
my %currency = (DE => 'EUR', US => 'USD');
my %billing = map { $_ => SyncExt::Sandbox->start(seed => $seed) } sort keys %currency;
my %erp = map { $_ => SyncExt::Tryton->new(currency => $currency{$_}) } sort keys %currency;
$_->start foreach values %erp;
my $node = SyncExt::Cluster->new('main', conf => "shared_buffers = 64MB\n");
$node->safe_psql('postgres', 'CREATE DATABASE hub');

my $month = SyncExt::Month->new(
	dsn       => $node->connstr('hub'),
	secrets   => $node->secrets_dir,
	billing   => \%billing,
	erp       => \%erp,
	sql       => "$FindBin::Bin/../month",
	seed      => $seed,
	customers => $ENV{MONTH_CUSTOMERS} || 100,
	patience  => 60,
	say       => sub { note(bytes($_[0])) },
	check     => sub {
		my ($ok, $claim, $detail) = @_;
		ok($ok, bytes($claim));
		diag(bytes($detail)) if defined $detail;
		return $ok;
	});
ok(eval { $month->run; 1 }, 'the month runs to its end') or diag(bytes($@));
$node->stop;
done_testing();
